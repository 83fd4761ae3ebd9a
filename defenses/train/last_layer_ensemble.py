"""Last-layer ensemble: a last layer for each shortcut, and a detector that says which one a picture is for.

Li et al. (2023, "A Whac-A-Mole dilemma", arXiv:2212.04825), section 5. On a frozen body's features f stand K + 1 linear
heads, one for pictures as they are and one for each edit that breaks a shortcut, and a linear detector d; a head learns
from the pictures of its edit alone, the detector which edit it was, and together they answer

    sum_k softmax(d(f))_k head_k(f).
"""

from __future__ import annotations

from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.edits import edits
from robustsuite.methods.last_layers import learn, seen, with_last_layers
from robustsuite.serve import stages
from robustsuite.serve.models import Fit, Reshaping, Training


@stages.train(
    paper="Li et al., 2023, arXiv:2212.04825, section 5",
    differs=(
        "edits are made from the pictures alone, as shortcut_augmentation's; the authors' edges are left out",
        "heads start from the network's own last layer and learn by Adam from the features of a few draws",
    ),
)
def last_layer_ensemble(
    fit: Fit, *, shortcuts: str = "watermark+background+texture", draws: int = 4, epochs: int = 40, lr: float = 1e-2
) -> Fit:
    """Put a last layer for each shortcut, chosen by a detector, on the frozen body of what the recipe returns.

    shortcuts: of watermark, background and texture, joined by '+'; none leaves one head, the last layer trained on.
    draws: of each edit of the train pictures, whose features are held in memory. lr: Adam's, falling by a half cosine.
    Raises UnknownName, BadValue; Unsupported for a network whose logits are no linear layer's output.
    """
    used = edits(shortcuts)
    if min(draws, epochs) < 1 or not lr > 0:
        raise BadValue(f"expected draws, epochs >= 1 and lr > 0, got {draws=}, {epochs=}, {lr=}; mend it")

    def shape(net: nn.Module, training: Training) -> nn.Module:
        return with_last_layers(net, training.train.shape, len(used) + 1)[0]

    def ensemble(net: nn.Module, training: Training) -> nn.Module:
        body = fit(net, training).to(training.device).eval()
        made, layers = with_last_layers(body, training.train.shape, len(used) + 1)
        features = [seen(body, training.train, used, training.device, training.seed + k)
                    for k in range(draws if used else 1)]  # fmt: skip
        learn(layers, features, training.train.y.to(training.device), epochs, lr, training.seed)
        return made.eval()

    return Reshaping(ensemble, shape)
