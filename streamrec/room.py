"""Say what processes ask of a Ray cluster's nodes, and whether the nodes have room for them. Pure, and without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streamrec.config import TeachersConfig

Amounts = Mapping[str, float]
"""Resource to amount, named as Ray names them: ``CPU``, ``GPU``, and whatever a node was started with."""

READ_CPUS = 0.5
"""Left for the tasks that read the log; without it Ray Data waits for ever beside Ray Train's workers."""

_ROUNDING = 1e-6
_PLAIN = ("CPU", "GPU")


@dataclass(frozen=True)
class Process:
    """Hold what one kind of processes asks for.

    Attributes:
        name: Of one, as in "no node holds one NAME".
        amounts: That each takes.
        count: How many there are at the same time.
        settings: Where the amounts are written.
    """

    name: str
    amounts: Amounts = field(default_factory=dict)
    count: int = 1
    settings: str = ""

    @property
    def asks(self) -> dict[str, float]:
        """What each takes, without what it takes nothing of."""
        return {name: amount for name, amount in self.amounts.items() if amount > 0}


def of_one_worker(teachers: TeachersConfig) -> dict[str, float]:
    """Return what a train worker takes."""
    gpus = {"GPU": teachers.gpus_per_worker} if teachers.use_gpu else {}
    return {"CPU": teachers.cpus_per_worker, **gpus, **teachers.worker_resources}


def fewest_workers(teachers: TeachersConfig) -> int:
    """Return how many train workers a fit has at least."""
    return teachers.min_train_workers or teachers.num_train_workers


def num_that_fit(asks: Amounts, node: Amounts) -> int:
    """Return how many processes that ask for something fit on a node."""
    return min(max(0, int((node.get(name, 0.0) + _ROUNDING) / amount)) for name, amount in asks.items())


def room_for(asks: Amounts, nodes: Sequence[Amounts]) -> int:
    """Return how many processes that ask for something the nodes have room for, `READ_CPUS` of a node left free where it costs the fewest."""
    whole = sum(num_that_fit(asks, node) for node in nodes)
    reading = {"CPU": READ_CPUS}
    lost = [num_that_fit(asks, node) - num_that_fit(asks, _less(node, reading)) for node in nodes if num_that_fit(reading, node)]
    return whole - min(lost, default=0)


def first_without_room(processes: Iterable[Process], nodes: Sequence[Amounts]) -> Process | None:
    """Return a process that finds no node any more when all are put where they fit, None when each has a place.

    The choosiest go first, each to the node that has the least of what others are choosy about. An order may be thought of in which all fit though
    this one fails, but Ray, which places them as they come, would not find it either.
    """
    left = [dict(node) for node in nodes]
    for process in sorted(processes, key=_choosiness, reverse=True):
        asks = process.asks
        for _ in range(process.count if asks else 0):
            fitting = [node for node in left if num_that_fit(asks, node) > 0]
            if not fitting:
                return process
            chosen = min(fitting, key=_rareness)
            chosen.update(_less(chosen, asks))
    return None


def _less(node: Amounts, amounts: Amounts) -> dict[str, float]:
    return {**node, **{name: node.get(name, 0.0) - amount for name, amount in amounts.items()}}


def _choosiness(process: Process) -> tuple[int, float, float]:
    asks = process.asks
    return len(asks.keys() - set(_PLAIN)), asks.get("GPU", 0.0), asks.get("CPU", 0.0)


def _rareness(node: Amounts) -> tuple[int, float, float]:
    special = [name for name, amount in node.items() if name not in _PLAIN and amount > 0]
    return len(special), node.get("GPU", 0.0), node.get("CPU", 0.0)
