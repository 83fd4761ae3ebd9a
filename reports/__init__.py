"""Reports: read the store, say what stands. Imports no torch."""

from .publish.write import write_report

__all__ = ["write_report"]
