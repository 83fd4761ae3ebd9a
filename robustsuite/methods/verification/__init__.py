"""What proofs by linear bounds share: a network's affine pieces, bounds of a region, branch and bound, instances."""
