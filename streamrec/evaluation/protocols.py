"""Cut a dataset into a base and test blocks, as published protocols do.

* ``progressive``: a basket is one (user, event time) with a target; the base is the first half of the baskets, then 20 equal blocks; nothing
  masked. What is no target, such as a return, belongs to the block of the next basket.
* ``sessions`` (ADER, RecSys 2020): period 0 is the base, each later period a block; items that no earlier period contained are dropped from
  the test, nothing masked.
* ``leave-one-out``: each user's last event in file order of time is the test; items the user has had are masked.
* ``static``: the file's split; items of the other splits are masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.errors import ConfigError, DatasetError

ProtocolName = Literal["progressive", "sessions", "leave-one-out", "static"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)

NUM_PROGRESSIVE_BLOCKS = 20


@dataclass(frozen=True)
class Blocks:
    """Hold the order in which events are played and which block each belongs to.

    Attributes:
        order: Positions in the dataset's events, block by block. [E] int64
        block: Block of each event in that order, 0 is the base. [E] int64
        mask_seen: Items that the user has had are no candidates.
        known_only: Only items of earlier blocks are tested.
        seen: Positions of the events whose items are masked for their user. [S] int64
    """

    order: NDArray[np.int64]
    block: NDArray[np.int64]
    mask_seen: bool = False
    known_only: bool = False
    seen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def of_block(self, number: int) -> NDArray[np.int64]:
        """Return the positions of a block's events, in order."""
        return np.asarray(self.order[self.block == number], np.int64)


def cut(events: pa.Table, protocol: str, is_target: NDArray[np.bool_] | None = None) -> Blocks:
    """Assign events to blocks.

    Args:
        events: ``user_id`` and ``event_time`` in file order of time; ``period`` for ``sessions``; ``split`` (train, valid, test) for ``static``.
        protocol: One of `PROTOCOLS`.
        is_target: Which events are predicted; None says all. Only ``progressive`` looks at it. [E] bool

    Raises:
        ConfigError: There is no such protocol.
        DatasetError: The file lacks what the protocol needs.
    """
    check_protocol(protocol)
    if protocol == "progressive":
        return _progressive(events, np.ones(events.num_rows, bool) if is_target is None else is_target)
    cutters = {"sessions": _sessions, "leave-one-out": _leave_one_out, "static": _static}
    return cutters[protocol](events)


def check_protocol(name: str) -> None:
    """Raise unless there is such a protocol.

    Raises:
        ConfigError: There is none.
    """
    if name not in PROTOCOLS:
        what = "Backtest: unknown protocol"
        raise ConfigError(what, got=repr(name), allowed=", ".join(PROTOCOLS), do="choose one of them")


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    encoded = pc.dictionary_encode(pa.chunked_array([pa.concat_arrays(column.chunks)]))
    return np.asarray(encoded.chunk(0).indices.to_numpy(), np.int64)


def _progressive(events: pa.Table, is_target: NDArray[np.bool_]) -> Blocks:
    time = events["event_time"].to_numpy()
    user = _codes(events["user_id"])
    order = np.lexsort((user, time))
    first = np.concatenate([[True], (np.diff(time[order]) != 0) | (np.diff(user[order]) != 0)])
    group = np.cumsum(first) - 1
    counts = np.bincount(group, is_target[order]) > 0
    basket: NDArray[np.int64] = (np.cumsum(counts) - counts)[group]
    num = int(counts.sum())
    half = (num + 1) // 2
    block = np.where(basket < half, 0, 1 + (basket - half) * NUM_PROGRESSIVE_BLOCKS // max(num - half, 1))
    return Blocks(order, np.minimum(block, NUM_PROGRESSIVE_BLOCKS))


def _sessions(events: pa.Table) -> Blocks:
    if "period" not in events.column_names:
        what = "Dataset: the protocol 'sessions' needs a period of each click"
        raise DatasetError(what, got=", ".join(events.column_names), allowed="a file with the columns period, session, item", do="use 'progressive'")
    _, block = np.unique(events["period"].to_numpy(), return_inverse=True)
    order = np.argsort(block, kind="stable")
    return Blocks(order, block[order].astype(np.int64), known_only=True)


def _leave_one_out(events: pa.Table) -> Blocks:
    last = _last_of_user(events)
    order = np.argsort(last, kind="stable")
    return Blocks(order, last[order], mask_seen=True, seen=np.flatnonzero(last == 0))


def _static(events: pa.Table) -> Blocks:
    if "split" not in events.column_names:
        what = "Dataset: the protocol 'static' needs a split of each row"
        raise DatasetError(what, got=", ".join(events.column_names), allowed="a file with the columns split, user, item", do="use 'leave-one-out'")
    codes = np.asarray([{"train": 0, "test": 1}.get(name, -1) for name in events["split"].to_pylist()], np.int64)
    kept = np.flatnonzero(codes >= 0)
    order = kept[np.argsort(codes[kept], kind="stable")]
    return Blocks(order, codes[order], mask_seen=True, seen=np.flatnonzero(codes != 1))


def _last_of_user(events: pa.Table) -> NDArray[np.int64]:
    user = _codes(events["user_id"])
    last = np.zeros(len(user), np.int64)
    final = np.full(int(user.max(initial=-1)) + 1, -1)
    final[user] = np.arange(len(user))
    last[final] = 1
    return last
