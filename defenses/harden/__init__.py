"""Defenses that change the trained weights."""
