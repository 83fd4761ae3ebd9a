"""Model extraction: a network is stolen through its answers (Tramer et al., 2016, arXiv:1609.02943).

A thief asks a limited number of questions in total, and trains a clone of an architecture of its own on the answers:
scores or classes, as the threat grants. It may own pictures (aux_data), which are neither the system's training
pictures nor those it is judged on, or none. The clone is judged by how often it answers as the victim does, by its
accuracy, and by how far attacks on it go over to the victim, each beside a *stranger*: a network of the same recipe,
trained on pictures with their own labels, that has asked nothing.
"""

from robustsuite.scenarios.extraction.thief import ALL, EPOCHS, LR, Attack, Stolen, Thief, Victim, attack

__all__ = ["ALL", "EPOCHS", "LR", "Attack", "Stolen", "Thief", "Victim", "attack"]
