"""Recommend from live event streams with a small student that keeps learning from several large teachers while it serves.

For notebooks, ``import streamrec as sr`` brings a dozen names (`streamrec.notebook`). Each is loaded when it is first used, so that the import itself
loads nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "load_events": "streamrec.notebook.worlds",
    "sample_events": "streamrec.notebook.worlds",
    "save_events": "streamrec.notebook.worlds",
    "settings": "streamrec.notebook.worlds",
    "backtest": "streamrec.notebook.learning",
    "train_teacher": "streamrec.notebook.learning",
    "distil": "streamrec.notebook.learning",
    "open_model": "streamrec.notebook.asking",
    "recommend": "streamrec.notebook.asking",
    "explain": "streamrec.notebook.asking",
    "plot": "streamrec.notebook.plotting",
    "Client": "streamrec.client",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = found = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
