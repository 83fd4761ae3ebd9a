"""Each name supplied to auto-LiRPA is still needed, and the process is left as it was.

Everything happens in one subprocess, which forks once per name left out: the library is imported afresh each time.
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROBE = """
import contextlib, importlib, io, json, logging, os, sys, warnings
import torch
from torch import nn

torch.set_num_threads(1)
from robustsuite.defenses.certifiers import _lirpa_compat as compat
from robustsuite.defenses.certifiers.lirpa import margin_bounds
from robustsuite.errors import Unsupported
from robustsuite.config.threats import Linf


def jit_state():
    executor, mode = torch._C._jit_set_profiling_executor(True), torch._C._jit_set_profiling_mode(True)
    torch._C._jit_set_profiling_executor(executor), torch._C._jit_set_profiling_mode(mode)
    return executor, mode


def state():
    exporter = compat._exporter_globals()
    opset = [getattr(exporter, n, None) for n in ("export_onnx_opset_version", "autograd_inlining")]
    absent = [n in sys.modules for n in ("numpy.lib.arraysetops", "appdirs", "graphviz")]
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    names = hasattr(torch._C.Node, "__getitem__"), hasattr(helper, "_set_opset_version")
    return {"jit": jit_state(), "exporter": opset, "logging": len(logging.getLogger().handlers),
            "warnings": list(warnings.filters), "modules": absent, "names": names}


def symptoms(without):
    for stage in ("WHILE_IMPORTING", "WHILE_RUNNING", "ON_THE_LIBRARY"):
        setattr(compat, stage, tuple(f for f in getattr(compat, stage) if f.__name__ != without))
    before, found, printed = state(), [], io.StringIO()
    try:
        lib = compat.library()
    except ImportError:
        return ["import"]
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)]
    net = nn.Sequential(*head)
    x = torch.rand(2, 1, 4, 4)
    y = net(x).argmax(1)
    with contextlib.redirect_stdout(printed):
        try:
            crown = margin_bounds(net, x, y, Linf(0.3))
        except Unsupported:
            return ["trace"]
        if without in ("nothing", "alpha_clamp"):
            alpha = margin_bounds(net, x, y, Linf(0.3), method="alpha-crown", steps=5)
            found += ["alpha equals crown"] * torch.equal(alpha, crown)
        if without in ("nothing", "contiguous_pooling"):
            pooled = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), *head)
            try:
                for eps in (0.01, 0.03, 0.1, 0.3):
                    margin_bounds(pooled, x, y, Linf(eps))
            except Unsupported:
                found.append("pooling")
        with compat.running():
            bounded = lib.BoundedModule(nn.Sequential(nn.Dropout(), *head).eval(), x)
            try:
                list(bounded.parameters())
            except TypeError:
                found.append("parameters")
    after = state()
    found += [key for key in before if before[key] != after[key]]
    return found + (["printed"] if printed.getvalue() else [])


report = {}
for name in sys.argv[1:]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.write(write, json.dumps(symptoms(name)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    report[name] = json.loads(text) if text else ["crashed"]
print(json.dumps(report))
"""
SYMPTOMS = {
    "nothing": [],
    "numpy_arraysetops": ["import"],
    "appdirs_package": ["import"],
    "onnx_set_opset": ["import"],
    "onnx_node_getitem": ["trace"],
    "named_members": ["parameters"],
    "alpha_clamp": ["alpha equals crown"],
    "contiguous_pooling": ["pooling"],
    "process_state": ["logging", "warnings"],
    "jit_unprofiled": ["jit"],
    "exporter_globals": ["exporter"],
    "mute": ["printed"],
}


def version() -> str:
    if importlib.util.find_spec("auto_LiRPA") is None:
        pytest.skip("auto-LiRPA is not installed")
    try:
        return importlib.metadata.version("auto-LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


@pytest.fixture(scope="module")
def report() -> dict[str, list[str]]:
    version()
    command = [sys.executable, "-W", "ignore", "-c", PROBE, *SYMPTOMS]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", SYMPTOMS)
def test_each_name_is_needed_and_does_its_work(report: dict[str, list[str]], name: str) -> None:
    if name != "nothing" and not version().startswith("0.3"):
        pytest.skip("the symptoms are those of auto-LiRPA 0.3, the release that is installed by default")
    if name == "appdirs_package" and importlib.util.find_spec("appdirs"):
        pytest.skip("appdirs itself is installed")
    if name == "alpha_clamp" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
        pytest.skip("torch before 2.14 lets the clamp's gradient through")
    assert report[name] == SYMPTOMS[name], f"without {name}: if nothing breaks, delete it from _lirpa_compat.py"
