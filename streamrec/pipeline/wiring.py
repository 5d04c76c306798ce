"""Wire a controller: everything in this process, or the heavy parts in Ray actors."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from streamrec.awaiting import BEHIND
from streamrec.clock import Clock, SystemClock
from streamrec.config import Config
from streamrec.log.base import LogWriter, TableReader
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.former_students import FormerStudents
from streamrec.pipeline.lake_writer import build_lake
from streamrec.pipeline.layout import checkpoint_url, registry_url, state_of
from streamrec.pipeline.lineage import Current, made_current
from streamrec.pipeline.other_lakes import OtherLakes
from streamrec.pipeline.parts import Parts, Pupil, nobody
from streamrec.pipeline.plan import STUDENT
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import PromotionBoard, Publisher
from streamrec.pipeline.ray_workers import RayWorker, wait_until_adopted
from streamrec.pipeline.saving import check_shape, shape_of
from streamrec.pipeline.switches import SwitchBoard
from streamrec.pipeline.tracing import VersionTraces
from streamrec.registry.registry import Registry
from streamrec.soft_labels.scorer import Scorer
from streamrec.storage import open_storage
from streamrec.student.actor import host
from streamrec.student.learner import Learner
from streamrec.teachers.kinds import check_teachers
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.refresh import RayRefresher
from streamrec.teachers.requests import LocalRefresher
from streamrec.telemetry.logs import set_up_first
from streamrec.workers import LocalWorker, Worker

C = TypeVar("C")


def actor_prefix(lineage_url: str) -> str:
    """Return what the names of a lineage's actors begin with: two states on one cluster have actors of their own."""
    return f"streamrec-{hashlib.sha256(lineage_url.rstrip('/').encode()).hexdigest()[:10]}"


def make_learner(config: Config, name: str) -> Learner:
    """Build a student: ``student``, ``control``, the same that never gets labels, or a further one by its name."""
    further = config.students.get(name)
    student = config.student if further is None else further.completed(config.student)
    return Learner(student, config.features, config.soft_labels.top_k, config.seed, name)


def _publisher(
    config: Config, state_url: str, clock: Clock, board: PromotionBoard | None, traces: VersionTraces, student: str = STUDENT
) -> Publisher:
    return Publisher(config, Registry(open_storage(registry_url(state_url)), student, clock=clock), board, traces.of(student))


def _learners(config: Config, make: Callable[[str], Worker[Learner]], publisher: Callable[[str], Publisher | None]) -> dict[str, Any]:
    """Return the parts that learn, by their names among `Parts`."""
    students = {name: Pupil(make(name), publisher(name), further.namespaces) for name, further in config.students.items()}
    return {"student": make("student"), "control": make("control") if config.student.control else None, "students": students}


def _fitting_checkpoints(config: Config, state_url: str) -> CheckpointStore:
    """Return the checkpoints if the configuration fits them; raises as `build_on_ray` does."""
    checkpoints = CheckpointStore(open_storage(checkpoint_url(state_url)))
    for facts in checkpoints.kept_facts()[:1]:
        check_shape(shape_of(config), facts.get("shape", {}))
    return checkpoints


def _stored(state_url: str) -> dict[str, Any]:
    """Return the parts that a lineage keeps below its address, or the state below its own, by their names among `Parts`."""
    storage = open_storage(state_url)
    return {"plans": PlanStore(storage), "receipts": storage, "switches": SwitchBoard(open_storage(state_of(state_url)))}


def build_local(
    config: Config,
    reader: TableReader,
    state_url: str,
    clock: Clock,
    *,
    dead_letters: LogWriter | None = None,
    durable: bool = True,
    board: PromotionBoard | None = None,
    traces: VersionTraces | None = None,
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
        traces: Tell how versions come to be.
    """
    check_teachers(config.teachers)
    traces = traces or VersionTraces()
    parts = Parts(
        config=config,
        clock=clock,
        reader=reader,
        **_learners(
            config,
            lambda name: LocalWorker(make_learner(config, name)),
            lambda name: _publisher(config, state_url, clock, None, traces, name) if durable else None,
        ),
        scorer=LocalWorker(Scorer(state_url, config.soft_labels.top_k)),
        linear=LocalWorker(LinearStatistics(config.teachers.linear)) if "linear" in config.teachers.enabled else None,
        refresher=LocalRefresher(config.teachers, state_url),
        dead_letters=dead_letters,
        publisher=_publisher(config, state_url, clock, board, traces) if durable else None,
        former=FormerStudents(open_storage(registry_url(state_url)), config, clock) if durable else None,
        checkpoints=CheckpointStore(open_storage(checkpoint_url(state_url))) if durable else None,
        **(_stored(state_url) if durable else {}),
        lake=build_lake(config, state_url) if durable else None,
        other_lakes=OtherLakes(config, state_url) if durable else None,
        current=made_current(state_url) if durable else Current(),
        traces=traces,
    )
    return Controller(parts)


def build_on_ray(
    config: Config,
    reader: TableReader,
    state_url: str,
    *,
    dead_letters: LogWriter | None,
    boards: Mapping[str, PromotionBoard] | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    progress: Callable[[str, Mapping[int, int]], None] | None = None,
    traces: VersionTraces | None = None,
) -> Controller:
    """Wire the student, its control, the scorer and the linear statistics as detached named actors that run this driver's code.

    Args:
        config: The resolved configuration.
        reader: The log.
        state_url: Storage address of the lineage, so of plans, checkpoints and teachers, reachable from all nodes. Versions go to the state's
            registry.
        dead_letters: Where rejected records go.
        boards: Get promoted versions, by student.
        name: Prefix of the actors' names; one stream per name. None makes one of the lineage's address.
        clock: Processing time.
        progress: Is told the topic and the next offsets after each commit.
        traces: Tell how versions come to be.

    Raises:
        ConfigError: The state was made with another shape; whoever moves it is left alone. Or a teacher's model is not here.
        Fenced: Another driver has taken over the state meanwhile.
        OperatorError: A package's teacher can't be imported.
        Damaged: The pointer or the lineage's name is torn or lost; the same.
    """
    check_teachers(config.teachers)
    checkpoints, lake = _fitting_checkpoints(config, state_url), build_lake(config, state_url)
    checkpoints.acquire()  # Before the actors are adopted: the driver whose calls are refused then knows why.
    epoch, prefix = secrets.randbits(62) + 1, name or actor_prefix(state_url)
    workers: list[RayWorker[Any]] = []

    def worker(role: str, build: Callable[..., C], *args: Any) -> Worker[C]:
        actor, place = f"{prefix}-{role}", {"scorer": config.placement.scorer, "linear": config.placement.linear}.get(role, config.placement.learners)
        handle = host(actor, place.cpus, checkpoints.check_owner, BEHIND if role in {"control", "linear"} else 0, place.resources, role)
        made: RayWorker[C] = RayWorker(handle, epoch, set_up_first, config.telemetry.log_format, role, build, *args, name=actor)
        workers.append(made)
        return made

    def learner(student: str) -> Worker[Learner]:
        return worker(f"students-{student}" if student in config.students else student, make_learner, config, student)

    clock, traces = clock or SystemClock(), traces or VersionTraces()
    parts = Parts(
        config=config,
        clock=clock,
        reader=reader,
        **_learners(config, learner, lambda student: _publisher(config, state_url, clock, (boards or {}).get(student), traces, student)),
        scorer=worker("scorer", Scorer, state_url, config.soft_labels.top_k),
        linear=worker("linear", LinearStatistics, config.teachers.linear) if "linear" in config.teachers.enabled else None,
        refresher=RayRefresher(config.teachers, state_url, config.telemetry.log_format, config.placement.refreshes),
        dead_letters=dead_letters,
        publisher=_publisher(config, state_url, clock, (boards or {}).get(STUDENT), traces),
        former=FormerStudents(open_storage(registry_url(state_url)), config, clock),
        checkpoints=checkpoints,
        **_stored(state_url),
        lake=lake,
        other_lakes=OtherLakes(config, state_url),
        current=made_current(state_url),
        traces=traces,
        progress=progress or nobody,
    )
    wait_until_adopted(workers)
    return Controller(parts)
