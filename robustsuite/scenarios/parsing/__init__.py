"""Model parsing: what an adversarial picture betrays of the network it was made against (Yao et al., arXiv:2303.07474).

Somebody attacks the judged system, the victim, by a named evasion attack. An observer finds the pictures, as what was
added (delta) or as they are, and says of each the victim's kernel size, activation and weight sparsity. It knows the
training data, not the network: it trains nets of all 27 combinations with draws of its own, attacks them as it assumes
the victim was attacked, and learns from those. Pictures of a fifth of its own examples are kept from it: among them it
is scored as in the paper (the same nets, other pictures), and they say how often it names the victim's values anyhow.
"""

from robustsuite.scenarios.parsing.observer import Attack, Examples, attack, parsed

__all__ = ["Attack", "Examples", "attack", "parsed"]
