"""Explanation: where does an attribution method say that a system looks, and is it so?

Nobody attacks: a method is handed pictures, and the class that the system answers, and returns a map a picture. Maps
are scored by what the system does where the pixels are deleted or inserted in their order (Petsiuk et al., 2018,
arXiv:1806.07421), by whether they lie on the object where the data set knows it, and, where it is asked for, by what
networks trained anew learn of the pixels that they keep (DiffROAR; Shah et al., 2021, arXiv:2102.12781).
"""

from robustsuite.scenarios.explanation.asked import Attack, attack

__all__ = ["Attack", "attack"]
