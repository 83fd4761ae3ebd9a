"""Membership inferences: (the victim, pictures, labels) -> a score for each, larger where it was trained on it."""
