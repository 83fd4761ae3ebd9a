"""A network from anybody's own code: python:pkg.mod:factory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import nn

from robustsuite.benchmarks.models.finish import finish, statistics_of
from robustsuite.errors import BadModel, BadValue
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
    if not (module_name and colon and attribute):
        raise BadValue(f"expected python:pkg.mod:factory, got {name!r}; name a module and a function in it")
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise BadModel(f"expected {attribute} in the module {module_name}, got {error}; check name and path") from error
    finally:
        sys.path.remove(folder)
    made = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(made, nn.Module):
        raise BadModel(f"expected {name} to return an nn.Module, got {type(made).__name__}; return the network itself")
    return made
