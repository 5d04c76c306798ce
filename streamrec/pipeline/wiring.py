"""Wire a controller: everything in this process, or the heavy parts in Ray actors."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from streamrec.clock import Clock, SystemClock
from streamrec.config import Config
from streamrec.log.base import LogWriter, TableReader
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_writer import build_lake
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.lineage import Current, made_current
from streamrec.pipeline.other_lakes import OtherLakes
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import PromotionBoard, Publisher
from streamrec.pipeline.ray_workers import RayWorker
from streamrec.pipeline.saving import check_shape, shape_of
from streamrec.registry.registry import Registry
from streamrec.soft_labels.scorer import Scorer
from streamrec.storage import open_storage
from streamrec.student.actor import host
from streamrec.student.learner import Learner
from streamrec.teachers.kinds import check_teachers
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.refresh import RayRefresher
from streamrec.teachers.requests import LocalRefresher
from streamrec.workers import LocalWorker, Worker

C = TypeVar("C")

ACTOR_CPUS = 0.1
"""Logical CPUs of each long-lived actor: they take turns with the stream, so they must fit beside Ray Train's workers."""


def make_learner(config: Config, name: str) -> Learner:
    """Build the student, or with the name ``control`` the same student that never gets labels."""
    return Learner(config.student, config.features, config.soft_labels.top_k, config.seed, name)


def build_local(
    config: Config,
    reader: TableReader,
    state_url: str,
    clock: Clock,
    *,
    dead_letters: LogWriter | None = None,
    durable: bool = True,
    board: PromotionBoard | None = None,
) -> Controller:
    """Wire everything in this process, without Ray: for backtests, unit tests and the pure benchmark.

    Args:
        config: The resolved configuration.
        reader: The log.
        state_url: The lineage's folder: where teachers go, and with ``durable`` also plans and checkpoints. Versions go to the state's registry.
        clock: Processing time.
        dead_letters: Where rejected records go; None drops them (they stay counted).
        durable: False keeps no plans, checkpoints, versions and lake.
        board: Gets promoted versions.
    """
    check_teachers(config.teachers)
    storage = open_storage(state_url)
    parts = Parts(
        config=config,
        clock=clock,
        reader=reader,
        student=LocalWorker(make_learner(config, "student")),
        control=LocalWorker(make_learner(config, "control")) if config.student.control else None,
        scorer=LocalWorker(Scorer(state_url, config.soft_labels.top_k)),
        linear=LocalWorker(LinearStatistics(config.teachers.linear)) if "linear" in config.teachers.enabled else None,
        refresher=LocalRefresher(config.teachers, state_url),
        dead_letters=dead_letters,
        publisher=Publisher(config, Registry(open_storage(registry_url(state_url)), clock=clock), board) if durable else None,
        checkpoints=CheckpointStore(open_storage(checkpoint_url(state_url))) if durable else None,
        plans=PlanStore(storage) if durable else None,
        receipts=storage if durable else None,
        lake=build_lake(config, state_url) if durable else None,
        other_lakes=OtherLakes(config, state_url) if durable else None,
        current=made_current(state_url) if durable else Current(),
    )
    return Controller(parts)


def build_on_ray(
    config: Config,
    reader: TableReader,
    state_url: str,
    *,
    dead_letters: LogWriter | None,
    board: PromotionBoard | None,
    name: str = "streamrec",
    clock: Clock | None = None,
    progress: Callable[[str, Mapping[int, int]], None] | None = None,
) -> Controller:
    """Wire the student, its control, the scorer and the linear statistics as detached named actors that run this driver's code.

    Args:
        config: The resolved configuration.
        reader: The log.
        state_url: Storage address of the lineage, so of plans, checkpoints and teachers, reachable from all nodes. Versions go to the state's
            registry.
        dead_letters: Where rejected records go.
        board: Gets promoted versions.
        name: Prefix of the actors' names; one stream per name.
        clock: Processing time.
        progress: Is told the topic and the next offsets after each commit.

    Raises:
        ConfigError: The state was made with another shape; whoever moves it is left alone. Or a teacher's model is not here.
        Fenced: Another driver has taken over the state meanwhile.
        OperatorError: A package's teacher can't be imported.
        Damaged: The pointer or the lineage's name is torn or lost; the same.
    """
    check_teachers(config.teachers)
    checkpoints = CheckpointStore(open_storage(checkpoint_url(state_url)))
    for facts in checkpoints.kept_facts()[:1]:
        check_shape(shape_of(config), facts.get("shape", {}))
    lake = build_lake(config, state_url)
    checkpoints.acquire()  # Before the actors are adopted: the driver whose calls are refused then knows why.
    epoch = secrets.randbits(62) + 1
    workers: list[RayWorker[Any]] = []

    def worker(role: str, build: Callable[..., C], *args: Any) -> Worker[C]:
        made: RayWorker[C] = RayWorker(host(f"{name}-{role}", ACTOR_CPUS, checkpoints.check_owner), epoch, build, *args)
        workers.append(made)
        return made

    clock = clock or SystemClock()
    parts = Parts(
        config=config,
        clock=clock,
        reader=reader,
        student=worker("student", make_learner, config, "student"),
        control=worker("control", make_learner, config, "control") if config.student.control else None,
        scorer=worker("scorer", Scorer, state_url, config.soft_labels.top_k),
        linear=worker("linear", LinearStatistics, config.teachers.linear) if "linear" in config.teachers.enabled else None,
        refresher=RayRefresher(config.teachers, state_url),
        dead_letters=dead_letters,
        publisher=Publisher(config, Registry(open_storage(registry_url(state_url)), clock=clock), board),
        checkpoints=checkpoints,
        plans=PlanStore(open_storage(state_url)),
        receipts=open_storage(state_url),
        lake=lake,
        other_lakes=OtherLakes(config, state_url),
        current=made_current(state_url),
    )
    if progress is not None:
        parts.progress = progress
    for made in workers:
        made.adopted()
    return Controller(parts)
