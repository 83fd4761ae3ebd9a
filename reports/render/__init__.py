"""What a report is before it has a format, and the formats: html, markdown, latex. Imports no torch."""
