"""What is predicted and what right means: one class a picture, and a row of NaN for no answer at all.

Every place that turns an output into a word asks here, so that another task can be added here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustsuite.errors import BadModel
from robustsuite.maths.losses import margin

if TYPE_CHECKING:
    from robustsuite.config.goals import Goal
    from robustsuite.serve.data import InputSpace, Split


def finite(out: Tensor) -> Tensor:
    """Zeros for NaN and infinities, so that the other rows can be computed with."""
    return out.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class Task:
    """Classification: outputs are logits (N, K), targets labels (N,)."""

    def checked(self, out: object, space: InputSpace, name: str, *, finite: bool = True) -> Tensor:
        """The logits (N, classes). Raises BadModel where they are none; finite: and where any is NaN or infinite."""
        if not isinstance(out, Tensor) or out.ndim != 2:
            got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise BadModel(
                f"expected logits (pictures, classes) from {name}, got {got}; return one tensor of two dimensions"
            )
        if out.shape[1] != space.classes:
            raise BadModel(
                f"expected a {space.classes}-class model for {space.classes}-class data, got {name} with "
                f"{out.shape[1]} classes; choose data or model to fit"
            )
        if finite and not bool(torch.isfinite(out).all()):
            raise BadModel(f"expected finite logits from {name}, got NaN or infinity; check weights and normalisation")
        return out

    def rejected(self, out: Tensor) -> Tensor:
        """Rows of NaN (N,), by which a system that may reject says that it gives no answer."""
        return out.isnan().all(1)

    def undefined(self, out: Tensor) -> Tensor:
        """Where (N,) any logit is NaN or infinite: no answer, be it on purpose or not."""
        return ~out.isfinite().all(1)

    def predicted(self, out: Tensor) -> Tensor:
        """Classes (N,); -1 where there is no answer."""
        return torch.where(self.undefined(out), -1, finite(out).argmax(1))

    def probabilities(self, out: Tensor) -> Tensor:
        """(N, K), summing to 1."""
        return finite(out).softmax(1)

    def margin(self, out: Tensor, target: Tensor, goal: Goal | None = None) -> Tensor:
        """How far (N,) an answer is past its goal, > 0 where it is reached; without a goal, past the label (N,)."""
        return margin(out, target) if goal is None else goal.margin(out, target)

    def stored(self, split: Split) -> dict[str, Tensor]:
        """What a row says of its example besides its id: its label."""
        return {"label": split.y}


TASK = Task()
"""The task of this suite."""
