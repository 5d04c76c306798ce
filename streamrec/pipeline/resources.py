"""Count what a plan needs of a Ray cluster, and say what is missing. Pure: a job and ``streamrec doctor`` use the same arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamrec.config import Config
from streamrec.errors import ResourcesShort

READ_CPUS = 0.5
"""Left for the tasks that read the log; without it Ray Data waits for ever beside Ray Train's workers."""

SERVING_CPUS = 0.2

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Resources:
    """Hold logical CPUs and GPUs.

    Attributes:
        cpus: Of all nodes.
        gpus: Of all nodes.
        node_cpus: Of the node that has most: a train worker does not spread over two.
    """

    cpus: float
    gpus: float
    node_cpus: float

    @classmethod
    def of_nodes(cls, nodes: Sequence[Mapping[str, float]]) -> Resources:
        """Return the resources of a cluster from those of its nodes, resource to amount."""
        cpus = [node.get("CPU", 0.0) for node in nodes]
        return cls(sum(cpus), sum(node.get("GPU", 0.0) for node in nodes), max(cpus, default=0.0))


def needed(config: Config, actor_cpus: float, num_replicas: int = 0) -> Resources:
    """Return what a stream, its refreshes and serving replicas take at the same time.

    Args:
        config: The resolved configuration.
        actor_cpus: Of each long-lived actor.
        num_replicas: Serving replicas on the same cluster.
    """
    teachers = config.teachers
    trains = "transformer" in teachers.enabled
    training = teachers.num_train_workers * teachers.cpus_per_worker if trains else 0.0
    num_actors = 2 + int(config.student.control) + int("linear" in teachers.enabled) + len(config.students)
    cpus = num_actors * actor_cpus + training + READ_CPUS + num_replicas * SERVING_CPUS
    gpus = teachers.num_train_workers if trains and teachers.use_gpu else 0
    return Resources(cpus, gpus, max(READ_CPUS, teachers.cpus_per_worker if trains else 0.0))


def shortage(config: Config, needs: Resources, have: Resources) -> ResourcesShort | None:
    """Return the error that names what is missing, or None when everything fits."""
    teachers = config.teachers
    do = f"lower teachers.num_train_workers ({teachers.num_train_workers}) or cpus_per_worker ({teachers.cpus_per_worker:g}), or add a node"
    if have.cpus + _ROUNDING < needs.cpus:
        what = "Resources: the plan does not fit this Ray cluster"
        return ResourcesShort(what, got=f"{have.cpus:g} CPUs", allowed=f"{needs.cpus:g} or more", do=do, remedy=do)
    if have.node_cpus + _ROUNDING < needs.node_cpus:
        what = "Resources: no node of this Ray cluster holds one train worker"
        got = f"{have.node_cpus:g} CPUs on the largest node"
        do = f"lower teachers.cpus_per_worker ({teachers.cpus_per_worker:g}), or add a larger node"
        return ResourcesShort(what, got=got, allowed=f"{needs.node_cpus:g} or more", do=do, remedy=do)
    if have.gpus + _ROUNDING < needs.gpus:
        what = "Resources: teachers.use_gpu asks for more GPUs than the cluster has"
        do = "set use_gpu = false, or add a node that has some"
        return ResourcesShort(what, got=f"{have.gpus:g}", allowed=f"{needs.gpus:g} or more", do=do, remedy=do)
    return None
