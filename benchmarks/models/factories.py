"""A network from anybody's own code: python:pkg.mod:factory."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from robustsuite.benchmarks.models.finish import finish, statistics_of
from robustsuite.errors import BadModel, BadValue, cause, quoted
from robustsuite.serve.data import InputSpace
from robustsuite.serve.models import Model, loader


@loader()
def python(name: str, space: InputSpace, *, mean: str = "", std: str = "") -> Model:
    """A network that your own function makes: python:pkg.mod:factory.

    factory() -> nn.Module over (N, C, H, W) in [0, 1], or over normalised pixels where mean and std are given.
    Raises BadModel, BadValue.
    """
    statistics = statistics_of(mean, std, space.channels)
    return finish(f"python:{name}", call_factory(name), space, statistics, made_by=(name.partition(":")[0],))


def call_factory(name: str) -> nn.Module:
    """The nn.Module that pkg.mod:factory returns; the working folder is searched as well."""
    module_name, colon, attribute = name.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module_name.split("."), attribute])):
        raise BadValue(f"expected python:pkg.mod:factory, got {quoted(name)}; name a module and a function in it")
    if module_name.partition(".")[0] in sys.stdlib_module_names:  # os:abort would end more than itself
        raise BadValue(f"expected a module of your own, got python's {module_name}; call your file something else")
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise BadModel(
            f"expected {attribute} in the module {module_name}, got {cause(error)}; check name and path"
        ) from error
    finally:
        with suppress(ValueError):  # the module may have done as it likes
            sys.path.remove(folder)
    if not callable(factory):
        raise BadModel(f"expected {name} to be a function, got {type(factory).__name__}; name one")
    made = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(made, nn.Module):
        raise BadModel(f"expected {name} to return an nn.Module, got {type(made).__name__}; return the network itself")
    if any(isinstance(module, torch.jit.ScriptModule) for module in made.modules()):
        raise BadModel(f"expected a network in Python from {name}, got a scripted or traced one; save it with "
                       f"torch.jit.save and load it as torchscript:FILE")  # fmt: skip
    return made
