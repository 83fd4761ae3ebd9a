"""Membership inference: who was in the training set? (Shokri et al., 2017, arXiv:1610.05820)

The protocol draws the training set: each example of a pool is in the victim's by a fair coin of its own, so members
and others are of one set, and whoever sees the pictures alone can do no better than guess. The victim is trained
through its lifecycle on what the coins say; an adversary gives each example a score, larger for members. If it is
granted means of its own (aux_data), it has networks that were trained as the victim was, on halves of the same pool:
each example is in exactly half of them, whatever the victim's coin says.
"""

from robustsuite.methods.membership import Shadows
from robustsuite.scenarios.membership.asked import Attack, attack

__all__ = ["Attack", "Shadows", "attack"]
