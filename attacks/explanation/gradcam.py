"""Grad-CAM: the last convolutional features, each weighted by its mean gradient (Selvaraju et al., 2017)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.maths.losses import own
from robustsuite.maths.randomness import Rng
from robustsuite.methods.explanation import last_convolution
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle, answer


@explanation.attack(
    needs=Access.WEIGHTS,
    paper="Selvaraju et al., 2017, Grad-CAM, ICCV, arXiv:1610.02391",
    cost=lambda classes: Cost(1, 1),
    differs=(
        "the layer is the last activation with several positions before the first fully connected layer; of a vision "
        "transformer those are its embedded patches, which lie before everything that it learnt to attend to",
    ),
)
def gradcam(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng) -> Tensor:
    """relu(sum_k w_k A_k), w_k the mean over positions of d logit / d A_k; stretched over the picture, bilinear.

    Raises Unsupported for a network without such an activation.
    """
    net, found = model.network(), [x[:0, 0]]
    for rows in torch.arange(len(x), device=x.device).split(max(1, model.width)) if len(x) else ():
        with torch.enable_grad():
            leaf = x[rows].detach().requires_grad_()
            logits, features = last_convolution(net, partial(answer, net, leaf, rng[rows]))
            (slope,) = torch.autograd.grad(own(logits, classes[rows]).sum(), features)
        weights = slope.mean((2, 3), keepdim=True)
        cam = (weights * features).sum(1, keepdim=True).relu()[: len(rows)].detach()
        found.append(functional.interpolate(cam, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0])
        model.bill(len(rows), len(rows))
    return torch.cat(found)
