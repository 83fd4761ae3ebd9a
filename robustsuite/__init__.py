"""robustsuite: how an image classifier stands against an adversary, in one sweep.

>>> import robustsuite as rs
>>> rs.evaluate(net, x, y, attack="pgd", budget=rs.Linf(8 / 255))  # doctest: +SKIP
"""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout the plugin folders stand beside this one (pyproject.toml maps them in); this lets
# `python -m pytest` find them there without an install.
if (_Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(_Path(__file__).parents[1]))

_LAZY = {
    "Access": "config.threats", "L0": "config.threats", "L1": "config.threats", "L2": "config.threats",
    "Linf": "config.threats", "Threat": "config.threats", "Rng": "maths.randomness", "Oracle": "serve.oracle",
    "Model": "serve.models", "Dataset": "serve.data", "Split": "serve.data", "load_model": "serve.models",
    "load_data": "serve.data", "evaluate": "app.api", "run": "app.api", "Run": "app.api", "Workers": "app.api",
    "Data": "app.own",
}  # fmt: skip
__all__ = sorted([*_LAZY, "__version__"])


def __dir__() -> list[str]:
    """The public names, which are imported when they are first used."""
    return __all__


def __getattr__(name: str) -> object:
    """Import the public names on first use, so that `robustsuite --help` does not wait for torch."""
    if name not in _LAZY:
        raise AttributeError(f"module 'robustsuite' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"robustsuite.{_LAZY[name]}"), name)
