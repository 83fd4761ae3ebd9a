"""Gradient inversions: (what clients shared, *, rng, ...) -> their pictures and classes."""
