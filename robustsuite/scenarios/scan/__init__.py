"""Is this checkpoint trojaned? Scanners look at one network alone; what they say is ranked against clean networks.

A fixed threshold on a scanner's scalar is no evidence: clean networks have classes that small triggers reach, too. So
each scalar stands with its rank among clean networks of the same task and architecture, several are joined into a
probability by weights that were fitted on a zoo of clean and trojaned networks, and where no such networks are known
the probability is said to be not calibrated.
"""

from robustsuite.scenarios.scan.suspect import Attack, Finding, Suspect, attack

__all__ = ["Attack", "Finding", "Suspect", "attack"]
