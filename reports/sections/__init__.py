"""The sections of a report, each with its tables and figures. Imports no torch."""
