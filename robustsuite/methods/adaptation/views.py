"""Another view of a batch, as CoTTA, RoTTA and RMT see it: colours, a small turn, blur, a mirror and noise.

One draw for the whole batch, from torch's global state, which a session seeds for each question. Ranges are those of
the methods' code (KATANA, Ndirango et al., 2021, arXiv:2109.08191, in its strong form). torchvision takes two seconds
to load: whoever lists the plugins does not wait for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.maths.warping import within

NOISE = 0.005
"""Standard deviation of what is added last, in [0, 1] pixels."""


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def recoloured(x: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in other brightness, contrast, saturation, hue and gamma, in a drawn order.

    Of pictures without three channels brightness, contrast and gamma alone.
    """
    from torchvision.transforms.v2 import functional as pictures

    changes = [
        lambda x: pictures.adjust_brightness(x, _between(0.6, 1.4)),
        lambda x: pictures.adjust_contrast(x, _between(0.7, 1.3)),
        lambda x: pictures.adjust_gamma(x.clamp(1e-8, 1.0), _between(0.7, 1.3)),
    ]
    if x.shape[1] == 3:
        changes += [
            lambda x: pictures.adjust_saturation(x, _between(0.5, 1.5)),
            lambda x: pictures.adjust_hue(x, _between(-0.06, 0.06)),
        ]
    for place in torch.randperm(len(changes)).tolist():
        x = changes[place](x)
    return x


def moved(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) turned by up to 15 degrees, shifted by a sixteenth of twice their side, scaled by a tenth.

    Beyond their border stands the border.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as pictures

    height, width = x.shape[2:]
    wide = pictures.pad(x, [width // 2, height // 2], padding_mode="edge")
    down, right = (round(_between(-side / 16, side / 16)) for side in wide.shape[2:])
    turned = pictures.affine(
        wide, _between(-15, 15), [right, down], _between(0.9, 1.1), [0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip
    cropped: Tensor = pictures.center_crop(turned, [height, width])
    return cropped


@torch.no_grad()
def viewed(x: Tensor) -> Tensor:
    """Another view of each picture (N, C, H, W) in [0, 1]."""
    from torchvision.transforms.v2 import functional as pictures

    x = moved(recoloured(x))
    x = pictures.gaussian_blur(x, [5, 5], [_between(0.001, 0.5)])
    if float(torch.rand(())) < 0.5:
        x = x.flip(3)
    return within(x + NOISE * torch.randn(x.shape, device=x.device))
