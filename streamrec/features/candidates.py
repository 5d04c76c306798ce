"""Keep ids out until several users have touched them, so that a flood of one-off ids takes no rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

NUM_USER_BITS = 64
"""Users are told apart by so many bits of a hash: two of them look like one in one of 64 cases, then one user more is asked for."""

_GENERATIONS = ("young", "old")
_EMPTY = np.zeros(0, np.int64)


class Candidates:
    """Remember, of ids without a row, which users touched each: between ``capacity / 2`` and ``capacity`` ids, newest first out last.

    Two generations of a table, as in `streamrec.features.dedupe.Dedupe`: when the young one is full it becomes the old one and the former old
    one is forgotten. So a flood costs bounded memory, and an id of which two users' events lie further apart than half the capacity's
    unknown ids begins anew. Ids are 64-bit hashes, so that a row given by a collision is as good as impossible; users are a set of 64 bits,
    so that one user counts once however often they come.

    **Contract.** `see` is a function of the state and its arguments in their order; how they are cut into calls makes no difference.
    """

    def __init__(self, admit_after: int, capacity: int) -> None:
        self.admit_after = admit_after
        self.capacity = capacity
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def see(self, hashes: Iterable[int], users: Iterable[int]) -> list[bool]:
        """Note the users of each id and return which ids have had enough; these are no candidates any more.

        Args:
            hashes: A hash of each id.
            users: A set of bits each, see `user_bits`.
        """
        enough = []
        for key, bits in zip(hashes, users, strict=True):
            known = bits | self._young.pop(key, 0) | self._old.pop(key, 0)
            enough.append(known.bit_count() >= self.admit_after)
            if not enough[-1]:
                self._young[key] = known
                if 2 * len(self._young) >= self.capacity:
                    self._old, self._young = self._young, {}
        return enough

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return both generations, sorted by hash."""
        result: dict[str, NDArray[Any]] = {}
        for name, held in zip(_GENERATIONS, (self._young, self._old), strict=True):
            hashes = np.fromiter(held.keys(), np.int64, len(held))
            order = np.argsort(hashes)
            result[f"{name}_hashes"] = hashes[order]
            result[f"{name}_users"] = np.fromiter(held.values(), np.uint64, len(held))[order]
        return result

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace everything by what `arrays` gave; names that are missing are empty."""
        held = [
            dict(zip(arrays.get(f"{name}_hashes", _EMPTY).tolist(), arrays.get(f"{name}_users", _EMPTY).tolist(), strict=True))
            for name in _GENERATIONS
        ]
        self._young, self._old = held


def user_bits(users: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return each user's bit: hashes [E] int64 → [E] uint64."""
    return np.uint64(1) << (users.astype(np.uint64) % np.uint64(NUM_USER_BITS))


def within_namespaces(known: Sequence[str], wanted: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Return the keys (namespace, item id) whose namespaces are among the first ``most``, known ones first; say which others there are."""
    if len(known) + len(wanted) <= most:
        return wanted
    names = list(dict.fromkeys([*known, *(name for name, _ in wanted)]))
    if len(names) > most:
        logger.warning(
            "Vocabulary: items of %d namespaces beyond features.max_namespaces = %d get no rows, of %r for example: nobody learns them; "
            "raise it, or correct the producer if it puts something else there",
            len(names) - most, most, names[most],
        )  # fmt: skip
    room = set(names[:most])
    return [key for key in wanted if key[0] in room]
