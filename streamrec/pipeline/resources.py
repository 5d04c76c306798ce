"""Count what a plan needs of a Ray cluster, and say what is missing. Pure: a job and ``streamrec doctor`` use the same arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streamrec.config import ActorPlacement, Config
from streamrec.errors import ResourcesShort
from streamrec.room import READ_CPUS, Amounts, Process, fewest_workers, first_without_room, num_that_fit, of_one_worker

SERVING_CPUS = 0.2

_ROUNDING = 1e-6
_TRAIN_WORKER = "train worker"


@dataclass(frozen=True)
class Resources:
    """Hold what a cluster's nodes have.

    Attributes:
        nodes: Of each, resource to amount.
    """

    nodes: tuple[Amounts, ...]

    @classmethod
    def of_nodes(cls, nodes: Sequence[Mapping[str, float]]) -> Resources:
        """Return the resources of a cluster from those of its nodes."""
        return cls(tuple(nodes))

    @property
    def cpus(self) -> float:
        """Logical CPUs of all nodes."""
        return self.of("CPU")

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return self.of("GPU")

    @property
    def node_cpus(self) -> float:
        """Logical CPUs of the node that has most."""
        return max((node.get("CPU", 0.0) for node in self.nodes), default=0.0)

    def of(self, resource: str) -> float:
        """Return what all nodes together have of a resource."""
        return sum(node.get(resource, 0.0) for node in self.nodes)


@dataclass(frozen=True)
class Needs:
    """Hold what is to run at the same time, and what that takes in all.

    Attributes:
        cpus: Logical CPUs.
        gpus: GPUs.
        node_cpus: On one node: a train worker does not spread over two.
        custom: Ray's custom resources.
        processes: What takes them.
    """

    cpus: float
    gpus: float
    node_cpus: float
    custom: dict[str, float] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()

    @classmethod
    def of(cls, processes: Iterable[Process]) -> Needs:
        """Add up what processes take."""
        taken = tuple(process for process in processes if process.count)
        sums: dict[str, float] = {}
        for process in taken:
            for name, amount in process.asks.items():
                sums[name] = sums.get(name, 0.0) + amount * process.count
        cpus, gpus = sums.pop("CPU", 0.0), sums.pop("GPU", 0.0)
        return cls(cpus, gpus, max((process.amounts.get("CPU", 0.0) for process in taken), default=0.0), sums, taken)


def reading() -> Process:
    """Return what is left for the tasks that read the log."""
    return Process("reading task", {"CPU": READ_CPUS})


def needed(config: Config, num_replicas: int = 0) -> Needs:
    """Return what a stream, its refreshes and serving replicas take at the same time.

    Args:
        config: The resolved configuration.
        num_replicas: Serving replicas on the same cluster.
    """
    teachers, placement = config.teachers, config.placement
    num_students = 1 + int(config.student.control) + len(config.students)
    num_workers = fewest_workers(teachers) if "transformer" in teachers.enabled else 0
    return Needs.of(
        [
            _actor("student", "learners", placement.learners, num_students),
            _actor("scorer of teachers", "scorer", placement.scorer, 1),
            _actor("actor of linear sums", "linear", placement.linear, int("linear" in teachers.enabled)),
            _actor("refresh of a teacher", "refreshes", placement.refreshes, len(teachers.refreshed)),
            Process(_TRAIN_WORKER, of_one_worker(teachers), num_workers, "teachers.cpus_per_worker, use_gpu and worker_resources"),
            reading(),
            Process("replica", {"CPU": SERVING_CPUS}, num_replicas, "serving.num_replicas"),
        ]
    )


def _actor(name: str, key: str, place: ActorPlacement, count: int) -> Process:
    return Process(name, amounts_of(place), count, f"placement.{key}")


def amounts_of(place: ActorPlacement) -> dict[str, float]:
    """Return what an actor takes, as Ray names it."""
    return {"CPU": place.cpus, **place.resources}


def shortage(config: Config, needs: Needs, have: Resources) -> ResourcesShort | None:
    """Return the error that names what is missing, or None when everything fits."""
    teachers = config.teachers
    do = f"lower teachers.num_train_workers ({teachers.num_train_workers}) or cpus_per_worker ({teachers.cpus_per_worker:g}), or add a node"
    if have.cpus + _ROUNDING < needs.cpus:
        what = "Resources: the plan does not fit this Ray cluster"
        return ResourcesShort(what, got=f"{have.cpus:g} CPUs", allowed=f"{needs.cpus:g} or more", do=do, remedy=do)
    if have.gpus + _ROUNDING < needs.gpus:
        what = "Resources: teachers.use_gpu asks for more GPUs than the cluster has"
        do = "set use_gpu = false, or add a node that has some"
        return ResourcesShort(what, got=f"{have.gpus:g}", allowed=f"{needs.gpus:g} or more", do=do, remedy=do)
    for process in needs.processes:
        if process.asks and not any(num_that_fit(process.asks, node) for node in have.nodes):
            return _too_large(config, process, have)
    homeless = first_without_room(needs.processes, have.nodes)
    if homeless is None:
        return None
    what = f"Resources: no node of this Ray cluster has room for each {homeless.name}, with what else is to run there"
    do = f"lower what {homeless.settings or 'the rest'} asks for, or add a node that has {_told(homeless.asks)}"
    return ResourcesShort(what, got=_all(have), allowed=f"{homeless.count} times {_told(homeless.asks)} on single nodes", do=do, remedy=do)


def _too_large(config: Config, process: Process, have: Resources) -> ResourcesShort:
    """Return the error for a process that no node could hold, were it empty."""
    what, asks = f"Resources: no node of this Ray cluster holds one {process.name}", process.asks
    if have.node_cpus + _ROUNDING < asks.get("CPU", 0.0):
        got, allowed = f"{have.node_cpus:g} CPUs on the largest node", f"{asks['CPU']:g} or more"
        do = "add a larger node"
        if process.name == _TRAIN_WORKER:
            do = f"lower teachers.cpus_per_worker ({config.teachers.cpus_per_worker:g}), or {do}"
        elif process.settings:
            do = f"lower what {process.settings} asks for, or {do}"
    else:
        got, allowed = _all(have), f"{_told(asks)} on one node"
        do = f"start a node that has them (`ray start --resources`, or `resources` of a worker group), or change {process.settings}"
    return ResourcesShort(what, got=got, allowed=allowed, do=do, remedy=do)


def _all(have: Resources) -> str:
    """Say what nodes have that processes can be told to ask for."""
    told = sorted({_told({name: amount for name, amount in node.items() if _is_told(name)}) or "nothing" for node in have.nodes})
    return f"{len(have.nodes)} nodes with {'; '.join(told)}" if told else "no node"


def _is_told(resource: str) -> bool:
    """Whether a resource is one that processes are placed by; Ray adds others by itself."""
    return resource not in {"memory", "object_store_memory"} and not resource.startswith(("node:", "accelerator_type:"))


def _told(amounts: Amounts) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(amounts.items()))


def told_places(config: Config, needs: Needs) -> list[str]:
    """Return a sentence for each kind of processes that only some nodes can hold, and one where a fit may take more workers than are counted."""
    special = [process for process in needs.processes if process.asks.keys() - {"CPU"}]
    told = [f"{process.count} × {process.name} on nodes that have it: {_told(process.asks)} each" for process in special]
    fewest, most = fewest_workers(config.teachers), config.teachers.num_train_workers
    if fewest < most and any(process.name == _TRAIN_WORKER for process in needs.processes):
        told.append(f"a fit begins with {fewest} train workers at least, and with up to {most} where there is room")
    return told
