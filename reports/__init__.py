"""Reports: read the store, say what stands. Imports no torch."""

from .write import write_report

__all__ = ["write_report"]
