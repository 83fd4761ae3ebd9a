"""Files and pages that are handed on: reports, leaderboards, documentation, gates. Imports no torch."""
