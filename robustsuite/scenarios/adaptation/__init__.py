"""Test-time adaptation: a stream of corrupted pictures, batch by batch, and whoever has a few of each batch.

A system that adapts is played in a session: a copy of its own, asked in the order that the threat declares, and judged
by what it answered then. One that does not adapt plays the same stream: it is the source that the others are held
against. Then the clean pictures are asked, to see what adapting cost, and before, of a session that saw nothing else.
An adversary may own a share of each batch's pictures and move them within a budget (Wu et al., 2023,
arXiv:2301.12576); what counts is the error on the pictures of the others, with its pictures and without.
"""

from robustsuite.scenarios.adaptation.asked import Attack, View, attack

__all__ = ["Attack", "View", "attack"]
