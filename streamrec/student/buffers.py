"""Lend memory for copies again and again, because memory that is new costs several times what copying into it does."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HEADROOM = 1.25
"""A buffer is made so much larger than asked for, because the next copy is of another size."""


class Buffers:
    """Lend arrays by name.

    **Contract.** A lent array is its holder's as long as they keep it or any view of it; only then is its memory lent again. What it contains
    at first is not defined. One thread lends; any may let go.

    Example:
        >>> buffers = Buffers()
        >>> first = buffers.lend("a", (2, 3), np.float32)
        >>> second = buffers.lend("a", (2, 3), np.float32)
        >>> np.shares_memory(first, second)
        False
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def lend(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array in the memory that was lent under this name last, or in new memory while that is in use or too small."""
        num = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._held or len(self._held[name]) < num or _references(self._held, name) > _ALONE:
            self._held[name] = np.empty(int(num * _HEADROOM), np.uint8)
        # A view's base is the array that owns the memory, whatever the view was made from: it counts all of them.
        return self._held[name][:num].view(dtype).reshape(shape)


def _references(held: dict[str, NDArray[np.uint8]], name: str) -> int:
    return sys.getrefcount(held[name])


_ALONE = _references({"": np.empty(0, np.uint8)}, "")
