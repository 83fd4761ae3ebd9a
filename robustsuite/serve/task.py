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


class Task:
    """Classification: outputs are logits (N, K), targets labels (N,)."""

    def checked(self, out: object, space: InputSpace, name: str, *, rejects: bool = False) -> Tensor:
        """The logits (N, classes). Raises BadModel where they are none; rejects: rows of NaN alone are answers."""
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
        rows = ~out.isnan().all(1) if rejects else slice(None)
        if not bool(torch.isfinite(out[rows]).all()):
            raise BadModel(f"expected finite logits from {name}, got NaN or infinity; check weights and normalisation")
        return out

    def rejected(self, out: Tensor) -> Tensor:
        """Where (N,) the system gives no answer."""
        return out.isnan().any(1)

    def predicted(self, out: Tensor) -> Tensor:
        """Classes (N,); -1 where the system rejects."""
        return torch.where(self.rejected(out), -1, out.nan_to_num(nan=0.0).argmax(1))

    def probabilities(self, out: Tensor) -> Tensor:
        """(N, K), summing to 1."""
        return out.nan_to_num(nan=0.0).softmax(1)

    def margin(self, out: Tensor, target: Tensor, goal: Goal | None = None) -> Tensor:
        """How far (N,) an answer is past its goal, > 0 where it is reached; without a goal, past the label (N,)."""
        return margin(out, target) if goal is None else goal.margin(out, target)

    def stored(self, split: Split) -> dict[str, Tensor]:
        """What a row says of its example besides its id: its label."""
        return {"label": split.y}


TASK = Task()
"""The task of this suite."""
