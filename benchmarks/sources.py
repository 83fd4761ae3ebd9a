"""Where models come from: one network in every form, and whether the suite says of each what it says of the plain one.

    python benchmarks/sources.py --out runs/sources [--n 64] [--epochs 4] [--only checkpoint]

Each form that loads is attacked with a fixed seed, by PGD where gradients pass, by Square where it shows scores alone,
by CGBA where classes alone; so is the plain torch network, granted the same. Written: sources.md and sources.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder, whose names are other packages' too

import torch
from torch import Tensor

from robustsuite.benchmarks.source_files import (
    Form,
    Kit,
    Missing,
    Source,
    architecture,
    before,
    ema,
    http,
    kit,
    own,
    published,
    quantised,
    recipe,
    safetensors,
    stored,
    transformers,
    under,
)  # fmt: skip
from robustsuite.benchmarks.source_graphs import exported, onnx, script
from robustsuite.config.registry import card_of
from robustsuite.config.threats import Access, Threat, parse_ball
from robustsuite.engine.runner import Runner
from robustsuite.errors import UsageError
from robustsuite.scenarios.cell import Cell
from robustsuite.serve.data import Dataset, Subjects
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import ANSWERS, Model, load_model, ready

FORMS: dict[str, Form] = {
    "checkpoint: .safetensors": safetensors,
    "checkpoint: .pt, a plain state_dict": under("plain", lambda w: w),
    "checkpoint: .pt of before torch 1.6": under("legacy", lambda w: w, _use_new_zipfile_serialization=False),
    **{f"checkpoint: under `{key}`": under(key, lambda w, key=key: {key: w, "epoch": 9})  # type: ignore[misc]
       for key in ("state_dict", "model", "model_state_dict", "net")},
    "checkpoint: Lightning, `model.` before each name": under("lightning", lambda w: {
        "state_dict": before("model.")(w), "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}),
    "checkpoint: DataParallel, `module.`": under("parallel", before("module.")),
    "checkpoint: torch.compile, `_orig_mod.`": under("compiled", before("_orig_mod.")),
    "checkpoint: AveragedModel, `n_averaged`": under("averaged", lambda w: {
        "n_averaged": torch.tensor(5), **before("module.")(w)}),
    "checkpoint: with an argparse.Namespace": under("namespace", lambda w: {
        "args": argparse.Namespace(lr=0.1, data="cifar"), "model": w}),
    "checkpoint: with the optimiser's state": under("optimiser", lambda w: {
        "model": w, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}}),
    "checkpoint: EMA beside, none chosen": ema(""),
    "checkpoint: EMA beside, `weights=ema`": ema("ema"),
    "checkpoint: EMA beside, `weights=model`": ema("model"),
    "checkpoint: float16": stored(torch.float16),
    "checkpoint: bfloat16": stored(torch.bfloat16),
    "checkpoint: quantised": lambda k: Source(k.saved("quantised.pt", quantised(k.net).state_dict())),
    "checkpoint: sparse": under("sparse", lambda w: {
        key: t.to_sparse() if t.ndim == 2 else t for key, t in w.items()}),
    "checkpoint: a whole pickled network": lambda k: Source(k.saved("whole.pt", k.net)),
    "checkpoint: a torchvision architecture": architecture("torchvision", "resnet18"),
    "checkpoint: a timm architecture": architecture("timm", "resnet10t"),
    "torchvision: weights in $TORCH_HOME": published,
    **{f"torchscript: {how}": script(how) for how in ("scripted", "traced", "frozen", "quantised")},
    "export: any number of pictures": exported(None),
    "export: 8 pictures at a time": exported(8),
    **{f"onnx: opset {opset}": onnx("onnx", opset) for opset in (13, 17, 20, 21)},
    "onnxruntime: float pixels": onnx("onnxruntime", 17),
    "onnxruntime: uint8 pixels": onnx("onnxruntime", 17, "uint8"),
    "onnxruntime: the class alone": onnx("onnxruntime", 17, "labels"),
    "hf: a ViT's folder": transformers("vit"),
    "hf: a ResNet's folder": transformers("resnet"),
    **{f"python: {what}": own(way) for way, what in {
        "logits": "logits", "pair": "a tuple", "mapping": "a dictionary", "output": "an object with logits",
        "numbers": "numpy inside, no gradient", "classes": "classes alone", "one": "one output, two classes",
        "features": "a map of features", "eight": "a network quantised in torch"}.items()},
    "http: a service on loopback": http,
    "recipe: trained here": recipe,
}  # fmt: skip

ATTACKS: dict[str, tuple[str, str, object, dict[str, object]]] = {
    "pgd": ("pgd", "linf", "2/255", {"steps": 10}),
    "square": ("square", "linf", "8/255", {"steps": 50}),
    "cgba": ("cgba", "l2", 1.0, {"queries": 60, "n0": 10}),
}
"""Strong enough to break some of the pictures and leave some."""


def attack_for(shows: Access) -> str:
    """The attack that what a model shows is enough for."""
    return "pgd" if shows == Access.WHITE_BOX else "square" if shows == ANSWERS else "cgba"


def judged(model: Model, data: Dataset, radius: str) -> tuple[dict[str, Any], Tensor]:
    """Its verdicts under attack, by column, and its answers to the clean pictures."""
    name, norm, eps, given = ATTACKS[attack_for(model.shows)]
    card, split = card_of("attack", name), data.split("test")
    access = model.shows | (Access.AUX_DATA & card.needs)
    threat = Threat("sources", card.place, access, budget=parse_ball(norm, radius or eps))
    runner = Runner(64)
    cell = Cell("sources", Lifecycle(model, data), Subjects(split), threat, card, tuple(sorted(given.items())),
                judged=split)  # fmt: skip
    _, examples = runner.played(cell)
    assert runner.system is not None
    with torch.no_grad():
        return examples, runner.system.net(split.images(torch.arange(len(split))))


def row(name: str, form: Form, k: Kit) -> dict[str, Any]:
    """What comes of one form: loads, its sentence, or verdicts and logits against the plain network's."""
    started, home = time.perf_counter(), Path.cwd()
    found: dict[str, Any] = {"source": name, "loads": "no"}
    try:
        warnings.simplefilter("ignore")  # of exporters and of what is deprecated: not of what we say
        made = form(k)
        data = made.data or k.data
        model = load_model(made.spec, data.space)
        net = ready(copy.deepcopy(made.plain or k.net))
        plain = Model("plain", net, data.space, "0" * 64, shows=model.shows, grid=model.grid)
        (got, ours), (want, theirs) = (judged(m, data, made.eps) for m in (model, plain))
        same = [all(got[c][i] == want[c][i] for c in ("clean_ok", "robust")) for i in range(len(want["robust"]))]
        found |= {
            "loads": "yes", "attack": attack_for(model.shows), "equal": sum(same), "n": len(same),
            "clean": int(sum(want["clean_ok"])), "standing": int(sum(want["robust"])),
            "apart": float((ours - theirs).abs().max()) if Access.SCORES in model.shows else None,
            "note": "; ".join(part for part in model.note.split("; ") if "without normalisation" not in part),
        }  # fmt: skip
    except Missing as error:
        found |= {"loads": "–", "sentence": f"not tried: {error} is not installed"}
    except UsageError as error:
        found |= {"sentence": str(error).replace(str(k.folder) + "/", "")}
    finally:
        os.chdir(home)
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in markdown."""
    lines = ["| source | loads | attack | verdicts equal | right, standing | logits apart | what it says |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in rows:
        cells = [one["source"], one["loads"], *[""] * 4, one.get("sentence") or one.get("note", "")]
        if "equal" in one:
            apart = "–" if one["apart"] is None else f"{one['apart']:.1g}"
            cells[2:6] = [one["attack"], f"{one['equal']} of {one['n']}", f"{one['clean']}, {one['standing']}", apart]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Every form, or those whose name holds a word; the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sources"))
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        k = kit(Path(folder).resolve(), asked.n, asked.epochs, asked.train)
        with k.open:
            for name, form in FORMS.items():
                if not asked.only or any(word in name for word in asked.only):
                    rows.append(row(name, form, k))
                    sys.stdout.write(table(rows[-1:]).splitlines()[-1] + "\n")
                    sys.stdout.flush()
    facts = {"torch": torch.__version__, "python": platform.python_version(), "n": asked.n, "epochs": asked.epochs}
    loaded = [one for one in rows if "equal" in one]
    equal = sum(one["equal"] == one["n"] for one in loaded)
    words_ = f"{len(rows)} sources: {len(loaded)} load, {equal} of them with every verdict equal"
    text = table(rows)
    (asked.out / "sources.md").write_text(f"{text}\n{words_}; {json.dumps(facts)}\n", "utf-8")
    (asked.out / "sources.json").write_text(json.dumps({**facts, "rows": rows}, indent=1), "utf-8")
    sys.stdout.write(f"{words_}\n")
    return rows


if __name__ == "__main__":
    main()
