"""Grad-CAM: the last convolutional features, each weighted by its mean gradient (Selvaraju et al., 2017)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustsuite.config.registry import Cost
from robustsuite.config.threats import Access
from robustsuite.maths.randomness import Rng
from robustsuite.methods.maps import grad_cam
from robustsuite.scenarios import explanation
from robustsuite.serve.oracle import Oracle, answer


@explanation.attack(
    needs=Access.WEIGHTS,
    paper="Selvaraju et al., 2017, Grad-CAM, ICCV, arXiv:1610.02391",
    cost=lambda classes: Cost(1, 1),
    differs=(
        "the layer is the last activation with several positions; of a vision transformer those are its embedded "
        "patches, which lie before everything that it learnt to attend to",
    ),
)
def gradcam(model: Oracle, x: Tensor, classes: Tensor, *, rng: Rng) -> Tensor:
    """relu(sum_k w_k A_k), w_k the mean over positions of d logit / d A_k; stretched over the picture, bilinear.

    Raises Unsupported for a network without such an activation.
    """
    net, found = model.network(), [x[:0, 0]]
    for rows in torch.arange(len(x), device=x.device).split(max(1, model.width)) if len(x) else ():
        found.append(grad_cam(net, x[rows], classes[rows], partial(answer, net, rng=rng[rows])))
        model.bill(len(rows), len(rows))
    return torch.cat(found)
