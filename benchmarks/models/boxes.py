"""Networks that are run by another engine and only answer: an ONNX file in onnxruntime."""

from __future__ import annotations

import hashlib
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.benchmarks.models.files import ONNX, regular
from robustsuite.benchmarks.models.finish import eight_bits, statistics_of
from robustsuite.config.identity import installed
from robustsuite.config.threats import Access
from robustsuite.errors import BadModel, MissingPackage
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import ANSWERS, Box, Model, Normalised, Votes, loader, weights_sha256

KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(uint8)": np.uint8}  # fmt: skip
"""What a graph may take; uint8 gets 0 ... 255."""

VALUES = 1 << 28
"""Numbers in a batch of a graph's own size at the most, 1 GiB in float32."""


@loader(requires="onnxruntime")
def onnxruntime(name: str, space: InputSpace, *, mean: str = "", std: str = "") -> Model:
    """An ONNX file as a black box, run by onnxruntime on one CPU thread: onnxruntime:net.onnx.

    It takes (N, C, H, W) or (N, H, W, C), as its shape says, in [0, 1] or normalised by mean and std; its first output
    of `classes` columns are the scores, else whole numbers (N,) the class. Raises MissingPackage, BadModel.
    """
    if find_spec("onnxruntime") is None:
        raise MissingPackage("onnxruntime", f"the model onnxruntime:{Path(name).name}", "'robustsuite[onnx]'")
    path = regular(name, "an ONNX file", ONNX)
    content = path.read_bytes()
    graph = _Graph(_session(content, path.name), space, path.name)
    box: nn.Module = Box(graph, hashlib.sha256(content).hexdigest())
    if graph.labels:
        box = Votes(box, space.classes)
    if (statistics := statistics_of(mean, std, space.channels)) is not None:
        box = Normalised(box, *statistics)
    shows = Access.LABELS if graph.labels else ANSWERS
    behaviour = {"onnxruntime": installed("onnxruntime")}
    return Model(f"onnxruntime:{path.stem}", box.eval(), space, weights_sha256(box), shows=shows, behaviour=behaviour,
                 grid=graph.kind is np.uint8)  # fmt: skip


def _session(content: bytes, name: str) -> Any:
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return engine.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the engine's own classes derive from nothing else
        line = " ".join(str(error).split())[-160:]
        raise BadModel(f"expected an ONNX network in {name}, got {line}; export it again in one file") from error


class _Graph:
    """A session as a function of pictures (N, C, H, W); asked in batches of the graph's own size, where it has one."""

    def __init__(self, session: Any, space: InputSpace, name: str) -> None:
        self.session = session
        given = session.get_inputs()
        if len(given) != 1 or given[0].type not in KINDS or len(given[0].shape) != 4:
            got = ", ".join(f"{one.name} {one.type} {one.shape}" for one in given)[:160]
            raise BadModel(f"expected one input of pictures in {name}, got {got}; export the classifier alone")
        self.input, self.kind = given[0].name, KINDS[given[0].type]
        sizes = [size if isinstance(size, int) else None for size in given[0].shape]
        self.batch = sizes[0]
        orders = {False: space.shape, True: (space.height, space.width, space.channels)}
        fits = [last for last, shape in orders.items()
                if all(a is None or a == b for a, b in zip(sizes[1:], shape, strict=True))]  # fmt: skip
        if not fits:
            raise BadModel(f"expected {name} to take {space.shape} pictures, got {given[0].shape}; choose data to fit")
        self.last = fits[0]
        if self.batch is not None and not 1 <= self.batch * math.prod(space.shape) <= VALUES:
            raise BadModel(f"expected {name} to take a batch that fits into memory, got {self.batch}; export it again")
        self.output, self.labels = self._outputs(space, name)

    def _outputs(self, space: InputSpace, name: str) -> tuple[str, bool]:
        """The output to read, and whether it is the class alone."""
        asked = self._run(np.full((1, *space.shape), 0.5, np.float32), None)
        found = {one.name: value for one, value in zip(self.session.get_outputs(), asked, strict=True)}
        for key, value in found.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == (1, space.classes):
                return key, False
        for key, value in found.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.shape == (1,):
                return key, True
        got = ", ".join(f"{key} {getattr(value, 'shape', type(value).__name__)}" for key, value in found.items())[:160]
        raise BadModel(f"expected scores of {space.classes} classes, or a class, from {name}, got {got}; choose data")

    def _run(self, x: np.ndarray, outputs: list[str] | None) -> list[Any]:
        x = x.transpose(0, 2, 3, 1) if self.last else x
        x = eight_bits(x) if self.kind is np.uint8 else x.astype(self.kind)
        missing = (self.batch or 1) - len(x)
        padded = np.concatenate([x, np.repeat(x[-1:], missing, 0)]) if missing > 0 else x
        found: list[Any] = self.session.run(outputs, {self.input: np.ascontiguousarray(padded)})
        return [value[: len(x)] if isinstance(value, np.ndarray) else value for value in found]

    def __call__(self, x: Tensor) -> Tensor:
        parts = x.split(self.batch or max(1, len(x)))
        answers = np.concatenate([self._run(part.numpy(), [self.output])[0] for part in parts])
        return torch.from_numpy(answers.astype(np.int64 if self.labels else np.float32))
