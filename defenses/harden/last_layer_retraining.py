"""Last-layer retraining: the body has learnt the object as well, the last layer only has to be told to look at it.

Kirichenko, Izmailov, Wilson (2023, "Last layer re-training is sufficient for robustness to spurious correlations",
arXiv:2204.02937): deep feature reweighting trains the last layer anew on a small set in which shortcuts say nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from robustsuite.errors import BadValue
from robustsuite.methods.head import head_of
from robustsuite.methods.last_layers import LastLayers, learn, seen
from robustsuite.serve import stages
from robustsuite.serve.models import Training


@stages.harden(
    paper="Kirichenko et al., 2023, arXiv:2204.02937",
    splits=("val",),
    differs=(
        "the balanced set is the val split: of the data `shortcuts` it has every combination alike, other data's is as "
        "it is",
        "one Adam training from the network's own last layer, in place of the mean of ten l1-penalised regressions",
    ),
)
def last_layer_retraining(net: nn.Module, training: Training, *, epochs: int = 100, lr: float = 1e-2) -> nn.Module:
    """The same network, its last linear layer trained anew on the val split's pictures.

    lr: Adam's, falling by a half cosine. Raises BadValue; Unsupported for a network whose logits are no linear layer's
    output.
    """
    if epochs < 1 or not lr > 0:
        raise BadValue(f"expected epochs >= 1 and lr > 0, got {epochs=}, {lr=}; mend it")
    net = net.to(training.device).eval()
    features = seen(net, training.val, (), training.device, training.seed)
    head, _ = head_of(net, training.val.shape)
    layers = LastLayers(head, 1)
    learn(layers, [features], training.val.y.to(training.device), epochs, lr, training.seed)
    with torch.no_grad():
        head.weight.copy_(layers.weight[0])
        if head.bias is not None:
            head.bias.copy_(layers.bias[0])
    return net
