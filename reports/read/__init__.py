"""Run folders and what they name, read back. Imports no torch."""
