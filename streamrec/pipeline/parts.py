"""Name everything that a controller is wired with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrec.clock import Clock
from streamrec.config import Config
from streamrec.features.examples import Examples
from streamrec.log.base import LogWriter, TableReader
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.former_students import FormerStudents
from streamrec.pipeline.lake_writer import LakeWriter
from streamrec.pipeline.lineage import Current
from streamrec.pipeline.other_lakes import OtherLakes
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.publisher import Publisher
from streamrec.pipeline.switches import SwitchBoard
from streamrec.pipeline.tracing import VersionTraces
from streamrec.soft_labels.scorer import Scorer
from streamrec.storage import Storage
from streamrec.student.learner import Learner
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.requests import Refresher
from streamrec.workers import Worker


def nobody(topic: str, offsets: Mapping[int, int]) -> None:
    """Stand for nobody who wants to know."""


@dataclass(frozen=True)
class Pupil:
    """A further student.

    Attributes:
        worker: Where it lives.
        publisher: Of its version line; None publishes nothing.
        namespaces: It learns of these alone; none: of all.
    """

    worker: Worker[Learner]
    publisher: Publisher | None
    namespaces: tuple[str, ...] = ()


@dataclass
class Parts:
    """Hold a controller's collaborators; what is None is left out of the flow.

    Attributes:
        config: The resolved configuration.
        clock: Processing time.
        reader: Reads planned ranges.
        student: The distilled student.
        control: The same student on events alone.
        students: Further students by name.
        scorer: Scores with teachers.
        linear: Statistics of the linear teacher.
        refresher: Carries out refreshes.
        dead_letters: Where rejected records go.
        publisher: Publishes and promotes.
        former: Has the versions of students that are configured no more.
        checkpoints: Where state is committed.
        plans: Where plans are made durable.
        lake: Where applied events are kept.
        other_lakes: Where they were kept once, or another lineage keeps them.
        receipts: Where deletions leave their receipts.
        switches: What the person on call has turned.
        obeys_pause: Whether a pause holds it: a rebuild is no stream.
        seen: Rows that are no candidates in evaluation, per query; for protocols that mask a user's items.
        current: What the state's pointer says of this lineage.
        progress: Is told the topic and the next offsets after each commit; neither waits nor raises.
        known_only: Evaluate only targets, and histories with an item, that earlier batches contained.
        traces: Tell how versions come to be.
    """

    config: Config
    clock: Clock
    reader: TableReader
    student: Worker[Learner]
    scorer: Worker[Scorer]
    refresher: Refresher
    linear: Worker[LinearStatistics] | None = None
    control: Worker[Learner] | None = None
    students: Mapping[str, Pupil] = field(default_factory=dict)
    dead_letters: LogWriter | None = None
    publisher: Publisher | None = None
    former: FormerStudents | None = None
    checkpoints: CheckpointStore | None = None
    plans: PlanStore | None = None
    lake: LakeWriter | None = None
    other_lakes: OtherLakes | None = None
    receipts: Storage | None = None
    switches: SwitchBoard | None = None
    obeys_pause: bool = True
    seen: Callable[[Examples], list[NDArray[np.int32]]] | None = None
    current: Current = field(default_factory=Current)
    progress: Callable[[str, Mapping[int, int]], None] = nobody
    known_only: bool = False
    traces: VersionTraces = field(default_factory=VersionTraces)

    def learners(self) -> dict[str, Worker[Learner]]:
        """Return all that learn by their component's name: ``student``, ``control``, ``students.NAME``."""
        control = {} if self.control is None else {"control": self.control}
        return {"student": self.student, **control, **{f"students.{name}": pupil.worker for name, pupil in self.students.items()}}

    def publishers(self) -> list[Publisher]:
        """Return all that publish; none where the student's is left out."""
        return [] if self.publisher is None else [self.publisher, *(each.publisher for each in self.students.values() if each.publisher is not None)]

    def former_students(self) -> FormerStudents | None:
        """Return who reaches the versions of students that are configured no more; None where the student's publisher is left out."""
        return None if self.publisher is None else self.former
