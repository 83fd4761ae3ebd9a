"""Malformed descriptions of models: services, folders of transformers, factories, specs and flags."""

from __future__ import annotations

import json
import pickle

import torch
from safetensors.torch import save as safe

from tests.malformed.made import RAN, Runs

BOMB = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
)
ENDPOINT = "name: e\nurl: http://127.0.0.1:9/\nretries: 0\ntimeout: 1\n"
SERVICES = {
    "aliases": BOMB + "\n" + ENDPOINT,
    "aliases as the url": BOMB + "\nname: e\nurl: *a19",
    "recursive": "&a {name: *a}",
    "brackets": "[" * 100_000,
    "a list": "[1]",
    "a word": "x",
    "python": "name: !!python/object/apply:os.system [touch ../RAN]",
    "no url": "name: e",
    "url of words": "name: e\nurl: x",
    "file url": "name: e\nurl: file:///etc/passwd",
    "half an address": "name: e\nurl: 'http://['",
    "port of 99999": "name: e\nurl: http://127.0.0.1:99999/\nretries: 0",
    "port of words": "name: e\nurl: http://localhost:x/",
    "a stranger": "name: e\nurl: http://example.org/",
    "password": "name: e\nurl: http://a:b@localhost/",
    "twice": ENDPOINT + "name: f",
    "unknown key": ENDPOINT + "nope: 1",
    "rate of NaN": ENDPOINT + "rate: .nan",
    "rate of 0": ENDPOINT + "rate: 0",
    "batch of words": ENDPOINT + "batch: x",
    "batch of 10^5000": ENDPOINT + "batch: 1" + "0" * 5000,
    "header of a variable": ENDPOINT + "headers: {a: $NOPE_X}",
    "header of two lines": ENDPOINT + 'headers: {a: "b\\nc: d"}',
    "header of no letter": ENDPOINT + 'headers: {"\\u00e9 x": a}',
    "name of escapes": 'name: "\\e[31m"\nurl: http://localhost/',
    "bytes": "\udcff",
    "nobody listens": ENDPOINT,
    "template deep": ENDPOINT + "body: {template: " + "{a: " * 2000 + "1" + "}" * 2001,
    "two documents": ENDPOINT + "---\na: 1",
    "custom without field": ENDPOINT + "protocol: custom\nanswer: {scores: a}",
    "date": ENDPOINT + "authorisation: {by: a, until: 2020-99-99, scope: x}",
    "long url": "name: e\nurl: http://localhost/" + "a" * 200_000,
    "big integer tag": "name: !!int x\nurl: x",
}

VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 8,
    "num_channels": 1,
}
FOLDERS: dict[str, dict[str, bytes | str]] = {
    "nothing": {"x": "y"},
    "config alone": {"config.json": json.dumps(VIT)},
    "config of a list": {"config.json": "[1]"},
    "config cut": {"config.json": '{"model_type": "vi'},
    "config of brackets": {"config.json": "[" * 100_000},
    "config empty": {"config.json": ""},
    "config of bytes": {"config.json": b"\xff\xfe\x00"},
    "code of its own": {
        "config.json": json.dumps(
            {
                **VIT,
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"},
            }
        ),
        "own.py": f"import os; os.system('touch {RAN}')",
    },
    "a pickle": {"config.json": json.dumps(VIT), "pytorch_model.bin": pickle.dumps(Runs())},
    "another's weights": {"config.json": json.dumps(VIT), "model.safetensors": safe({"a": torch.zeros(1)})},
    "cut weights": {"config.json": json.dumps(VIT), "model.safetensors": safe({"a": torch.zeros(99)})[:50]},
    "size of 10^7": {
        "config.json": json.dumps({**VIT, "hidden_size": 10**7, "intermediate_size": 10**7}),
        "model.safetensors": safe({"a": torch.zeros(1)}),
    },
    "size of a word": {
        "config.json": json.dumps({**VIT, "hidden_size": "x"}),
        "model.safetensors": safe({"a": torch.zeros(1)}),
    },
    "index to elsewhere": {
        "config.json": json.dumps(VIT),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {"a": "../../../../etc/passwd"}}),
    },
}


def forward(body: str, more: str = "") -> str:
    """A module whose network does this."""
    head = "import sys, torch\nclass f(torch.nn.Module):\n"
    return f"{head}  def forward(self, x): {body}\n" + (f"  {more}\n" if more else "")


FACTORY = {
    "exits": "import sys\ndef f(): sys.exit(0)",
    "exits as a module": "raise SystemExit(3)",
    "raises": "def f(): 1/0",
    "base exception": "class E(BaseException): pass\ndef f(): raise E('x')",
    "recurses": "def f(): return f()",
    "message of 10 MB": "def f(): raise ValueError('x' * 10**7)",
    "message of lines": "def f(): raise ValueError('x\\n' * 10**6)",
    "message of escapes": "def f(): raise ValueError('\\x1b[2J\\x1b]0;x\\x07')",
    "a number": "def f(): return 3",
    "None": "def f(): pass",
    "a class": "from torch import nn\nf = nn.Module",
    "a word": "f = 'word'",
    "str that raises": "class E(Exception):\n  def __str__(self): raise ValueError('no')\ndef f(): raise E",
    "syntax": "def f(:",
    "null byte": "def f():\0",
    "needs arguments": "def f(a, b): pass",
    "keyboard": "def f(): raise ValueError(KeyboardInterrupt())",
    "forward raises": forward("raise MemoryError('none left')"),
    "forward of words": forward("return 'x'"),
    "forward of 10^6 classes": forward("return torch.zeros(len(x), 10**6)"),
    "forward of NaN": forward("return torch.full((len(x), 10), torch.nan)"),
    "forward recurses": forward("return self(x)"),
    "forward exits": forward("sys.exit(0)"),
    "odd state": forward("return x.flatten(1)[:, :10]", "def state_dict(self, *a, **k): return {'a': 3}"),
    "getattr for all": "def __getattr__(name): raise ValueError(name)",
    "group of errors": "def f(): raise BaseExceptionGroup('g', [KeyError(1)])",
}

SPECS = (
    "",
    ":",
    "python",
    "python:",
    "python:..:x",
    "python:os:abort",
    "python:nets:nope",
    "nope:x",
    "checkpoint:",
    "checkpoint:x?",
    "checkpoint:nets.py",
    "checkpoint:nets.py?arch=resnet4b",
    "checkpoint:nets.py?arch=torchvision:nope",
    "checkpoint:nets.py?arch=timm:nope",
    "checkpoint:nets.py?arch=a:b:c",
    "checkpoint:nets.py?nope=1",
    "checkpoint:nets.py?arch=a&arch=b",
    "python:nets:digit?mean=x&std=1",
    "python:nets:digit?mean=nan&std=nan",
    "python:nets:digit?mean=0&std=0",
    "python:nets:digit?mean=1,2&std=1",
    "python:nets:digit?mean=1",
    "python:nets:digit?mean=inf&std=inf",
    "python:nets:two",
    "torchvision:nope",
    "timm:nope",
    "recipe:nope",
    "recipe:scenes_resnet?epochs=x",
    "hf:..",
    "hf:a/b/c",
    "robustbench:x",
    "pyautoattack:x",
    "http:",
    "onnx:",
    "export:.",
    " + ",
    "python:nets:digit + ",
    "\x1b[31m",
    "é:ü",
    "x" * 9000,
)
FLAGS = (
    ("-D", "digits: ["),
    ("-D", "nope"),
    ("-D", "{digits: {nope: 1}}"),
    ("-D", "imagefolder:"),
    ("-D", "{digits: {split: 3}}"),
    ("-a", "nope"),
    ("-a", "{fgsm: 3}"),
    ("-b", "x"),
    ("-b", "-1"),
    ("-b", "1/0"),
    ("-b", "nan"),
    ("--first", "0"),
    ("--first", "-3"),
    ("--first", "999999999999"),
    ("--device", "tpu"),
    ("--shard", "9/3"),
    ("--access", "root"),
    ("--executor", "nope"),
    ("-d", "nope"),
    ("-s", "nope"),
    ("--seed", "-1"),
    ("--batch-size", "99999999999"),
    ("--workers", "99999"),
    ("-o", "/dev/null/x"),
    ("-o", "x" * 5000),
)
