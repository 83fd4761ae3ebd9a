"""What is stored and how it is read back: typed schemas over untrusted files. Imports no torch."""
