"""Thieves: (a victim to ask, what they have besides) -> clones."""
