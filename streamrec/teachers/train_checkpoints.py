"""Keep what Ray Train's workers have learned on storage, where those that take their place find it, on whatever node and however many."""

from __future__ import annotations

import uuid

from ray.train import get_context
from ray.train.collective import barrier, broadcast_from_rank_zero

from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage.base import Storage

_WHOLE = "whole"


class StoredCheckpoints:
    """Keep a training's state below a folder of a storage; see `streamrec.teachers.training.Checkpoints`.

    A checkpoint counts once all parts are there, when rank 0 says so by a file of its own. What workers that were cut off have left by then is not
    looked at; two of the same number, as after a network that was split, are both right: a training is a function of its request.

    Args:
        storage: Where the versions are.
        folder: Key below which checkpoints are.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._rank = get_context().get_world_rank()
        self._number, self._start = 0, ""

    def load(self) -> list[ComponentState]:
        """Return the parts of the newest checkpoint that is whole, the same one for all workers."""
        chosen = {"newest": newest(self._storage, self._folder), "start": uuid.uuid4().hex[:12]} if self._rank == 0 else {}
        chosen = broadcast_from_rank_zero(chosen)
        found, self._start = chosen["newest"], chosen["start"]
        if not found:
            return []
        self._number = int(found.partition("-")[0])
        return [from_bytes(self._storage.read(key)) for key in self._storage.list(f"{self._folder}/{found}") if not key.endswith(_WHOLE)]

    def save(self, part: ComponentState | None) -> None:
        """Write this worker's part, and return when all have."""
        self._number += 1
        name = f"{self._number:06d}-{self._start}"
        if part is not None:
            self._storage.write_new(f"{self._folder}/{name}/part-{self._rank:05d}.safetensors", to_bytes(part))
        barrier()
        if self._rank == 0:
            self._storage.write_new(f"{self._folder}/{name}/{_WHOLE}", b"")
            remove(self._storage, self._folder, before=name)
        barrier()


def newest(storage: Storage, folder: str) -> str:
    """Return the name of the newest checkpoint that is whole; nothing where none is."""
    names = [key.split("/")[-2] for key in storage.list(folder) if key.endswith(f"/{_WHOLE}")]
    return max(names, default="")


def remove(storage: Storage, folder: str, before: str = "") -> None:
    """Remove checkpoints, by default all, else those whose number is lower than that of a name; each stops being whole first."""
    keys = [key for key in storage.list(folder) if not before or key.split("/")[-2] < before[:6]]
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{_WHOLE}")):
        storage.delete(key)
