"""Define what a stateful component is, and how its state becomes bytes.

The streaming state is a set of named components. The checkpoint, the fault tests and deletion iterate over them and know nothing
else about them. A component's state is a dictionary of numpy arrays plus a small JSON ``meta``; its bytes are a safetensors file, so
that restoring it can't run code.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from streamrec.errors import Damaged

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ComponentState:
    """Hold one component's state.

    Attributes:
        arrays: Contiguous numpy arrays by name.
        meta: JSON-serialisable facts (numbers, strings, lists).
    """

    arrays: Arrays = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


class Component(Protocol):
    """A named part of the streaming state.

    **Contract.** ``restore(snapshot())`` gives a component that behaves the same bit for bit. ``delta()`` returns what changed since the
    last ``snapshot()`` or ``delta()``, or None when the component has no cheaper form than its snapshot; ``apply_delta`` of the deltas, in
    order, on the snapshot they follow gives the same state. ``delete_user`` removes what is kept under the user's key and returns how many
    entries went. ``forget_rows`` removes everything that is kept under item rows whose items have left and returns how many entries went;
    afterwards the rows may come with other items. ``digest`` covers everything that ``snapshot`` holds.
    """

    name: str

    def snapshot(self) -> ComponentState:
        """Return the whole state."""
        ...

    def delta(self) -> ComponentState | None:
        """Return the change since the last snapshot or delta, or None for 'take a snapshot'."""
        ...

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state by ``base`` with ``deltas`` applied in order."""
        ...

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user and return how many entries went."""
        ...

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Remove what is kept under item rows and return how many entries went."""
        ...

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        ...


def to_bytes(state: ComponentState) -> bytes:
    """Serialise a component's state as a safetensors file (https://github.com/huggingface/safetensors).

    The same state always gives the same bytes, so its SHA-256 names it.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(state.arrays.items())}
    return save_safetensors(arrays, metadata={"meta": json.dumps(state.meta, sort_keys=True)})


def from_bytes(data: bytes) -> ComponentState:
    """Parse what `to_bytes` wrote.

    Raises:
        Damaged: The bytes are not such a file.
    """
    try:
        arrays = load_safetensors(data)
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])
        meta = json.loads(header.get("__metadata__", {}).get("meta", "{}"))
    except (SafetensorError, ValueError, KeyError) as error:
        what = f"State: the bytes are not a component's state ({error})"
        raise Damaged(what, got=f"{len(data)} bytes", do="restore the previous checkpoint") from error
    return ComponentState(arrays, meta)


def digest_of(state: ComponentState) -> str:
    """Return the SHA-256 of a state's bytes, in hex."""
    return hashlib.sha256(to_bytes(state)).hexdigest()


def pack_strings(values: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pack strings into (UTF-8 bytes [total_bytes] uint8, offsets [num + 1] int64).

    Example:
        >>> data, offsets = pack_strings(["ab", "", "é"])
        >>> unpack_strings(data, offsets)
        ['ab', '', 'é']
    """
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def unpack_strings(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    """Return the strings that `pack_strings` packed."""
    raw = data.tobytes()
    bounds = offsets.tolist()
    return [raw[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(bounds)]
