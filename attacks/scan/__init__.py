"""Scanners of one network for a backdoor: (a suspect) -> how suspicious it and each of its classes is."""
