"""Sections of evasion alone: queries and what they cost, ordered lists of classes. Imports no torch."""
