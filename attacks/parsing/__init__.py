"""Observers of adversarial pictures: (what they see, what to learn on) -> what the network is made of, by picture."""
