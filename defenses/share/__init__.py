"""Defenses that change what a federated client shares: (update, *, rng, owner, ...) -> update."""
