"""Define the settings, one frozen model per stage. Durations are written ``"10s"``, ``"5m"``, ``"24h"`` and held in seconds."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from streamrec.config.connection import ConnectionConfig
from streamrec.config.placement import PlacementConfig
from streamrec.config.section import Address, Duration, Section
from streamrec.config.serving import ServingConfig
from streamrec.config.teachers import TeachersConfig
from streamrec.config.telemetry import TelemetryConfig

LEAST_BATCH_EVENTS = 1024
"""What a micro-batch takes at least by default: below it, few events cost nearly as much as many."""

MAX_NAMESPACE_CHARS = 64
MAX_TIME_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the end of ISO 8601's four-digit years."""
MIN_SENT_TIME_MS = 100_000_000_000
"""In 1973. What HTTP clients send from before it is in seconds, up to the year 5138, and would be late for ever."""
FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127
"""Of a number in an item's vectors."""
MAX_NAMESPACE_BYTES = 81
"""The lake has a folder for each namespace, whose name has up to three characters for a byte, and file systems give a name 255."""


class Meaning(Section):
    """Say what one event type means for learning.

    ``target``: is predicted and enters the history. ``context``: enters the history only. ``negative``: takes the item's newest
    occurrence out of the history and is never predicted. An event whose ``value`` is below ``negative_below`` counts as negative.
    """

    role: Literal["target", "context", "negative"]
    weight: float = Field(default=1.0, gt=0, le=100)
    negative_below: float | None = None


DEFAULT_MEANINGS: dict[str, Meaning] = {
    "view": Meaning(role="target", weight=0.5),
    "click": Meaning(role="target", weight=1.0),
    "cart": Meaning(role="target", weight=1.0),
    "favourite": Meaning(role="target", weight=1.0),
    "purchase": Meaning(role="target", weight=1.0),
    "rating": Meaning(role="target", weight=1.0),
    "search": Meaning(role="context", weight=1.0),
    "return": Meaning(role="negative", weight=1.0),
    "remove": Meaning(role="negative", weight=1.0),
}


class EventsConfig(Section):
    """Validate events and say what they mean."""

    namespace: str = Field(default="default", min_length=1, max_length=MAX_NAMESPACE_CHARS)
    meanings: dict[str, Meaning] = Field(default_factory=lambda: dict(DEFAULT_MEANINGS))
    future_tolerance_s: Duration = 86_400.0
    max_id_bytes: int = Field(default=512, ge=8, le=65_536)

    @field_validator("namespace")
    @classmethod
    def _fits_a_folder(cls, value: str) -> str:
        """Refuse what the codec refuses of an event, since those without a namespace get this one."""
        if len(value.encode("utf-8", "surrogatepass")) > MAX_NAMESPACE_BYTES:
            msg = f"allowed at most {MAX_NAMESPACE_BYTES} bytes in UTF-8"
            raise ValueError(msg)
        return value


class LogConfig(ConnectionConfig):
    """Name the broker and the topics; how a Kafka is spoken to is in `streamrec.config.connection`.

    ``broker``: ``auto`` (embedded Kafka, else local files, saying so), ``embedded``, ``local`` or ``HOST:PORT[,HOST:PORT]``.
    ``consumer_group`` gets the offsets of each commit, for tools that show lag; empty derives a name from the state. A Kafka only, and never read.
    ``connect_timeout_s`` bounds one attempt; a job that starts while nobody answers tries again for ``connect_limit_s``.
    """

    broker: str = Field(default="auto", min_length=1)
    events_topic: str = Field(default="streamrec.events", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    dead_letter_topic: str = Field(default="streamrec.dead-letters", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    num_partitions: int = Field(default=2, ge=1, le=1024)
    connect_timeout_s: Duration = 30.0
    connect_limit_s: Duration = 120.0
    read_timeout_s: Duration = 30.0
    consumer_group: str = Field(default="", max_length=200)

    @field_validator("dead_letter_topic")
    @classmethod
    def _is_another_topic(cls, value: str, info: ValidationInfo) -> str:
        """Refuse the events topic: a dead letter is no event, so each would become the next one."""
        if value == info.data.get("events_topic"):
            msg = f"another topic than log.events_topic = {value!r}"
            raise ValueError(msg)
        return value


class FeaturesConfig(Section):
    """Bound items, histories, duplicates and lateness.

    ``max_items``: so many items have rows; the coldest leave first. ``admit_after``: so many users must have touched an id before it gets a row,
    once a tenth of the rows are taken; announced items never wait. ``max_namespaces``: so many have items with rows; none is taken back, and a
    commit that brings one holds all of their names. ``dedupe_horizon``: how many event ids are remembered at most. ``dedupe_horizon_s``: for how
    long by event time, and at least for ``lateness_s``, so that an interaction whose id is forgotten by time is late when it comes again.
    ``max_repeats``: what a user does with an item that fills so many places of their history is in the history, and taught to nobody: a bot has no
    end of it; 0 teaches all. ``popular_half_life_s``: for answers to nobody in particular a use counts half as much after so long.
    """

    history_length: int = Field(default=50, ge=1, le=1000)
    max_users: int = Field(default=1_000_000, ge=1)
    max_items: int = Field(default=1_000_000, ge=2, le=2**31 - 1)
    admit_after: int = Field(default=2, ge=1, le=32)
    max_namespaces: int = Field(default=1024, ge=1, le=65_536)
    dedupe_horizon: int = Field(default=1_000_000, ge=0)
    dedupe_horizon_s: Duration = 7 * 86_400.0
    lateness_s: Duration = 7 * 86_400.0
    max_repeats: int = Field(default=20, ge=0, le=1000)
    words_per_item: int = Field(default=12, ge=0, le=64)
    word_buckets: int = Field(default=2048, ge=1, le=65_536)
    popular_half_life_s: Duration = Field(default=7 * 86_400.0, ge=60)


class SoftLabelsConfig(Section):
    """Say how much of each teacher's answer is kept.

    ``relabel``: so many stored queries a micro-batch are labelled anew, in turn, by teachers that can leave a query out of what they know (the
    neighbours).
    """

    top_k: int = Field(default=32, ge=1, le=1024)
    temperature: float = Field(default=1.0, gt=0, le=20)
    relabel: int = Field(default=0, ge=0)


class LossesConfig(Section):
    """Weigh further losses, beside the cross-entropy to labels that ``distill_weight`` weighs; 0 leaves one out.

    ``dynamic_temperature``: an example's labels are flattened the more, the surer they are (2 where one has it all), and sharpened the less sure they
    are (0.5 where all are even), for every loss.

    ``kl``: divergence from the labels and from what they leave open, at ``kl_temperature``. ``listwise``: likelihood of the labels' order. Both count
    in an example as much as its labels do.

    On representations, for new queries and each teacher that has them (transformer, text): ``hints``: how far the student's query, seen through a
    learned projection, is from the teacher's; ``contrastive``: how hard the teacher's is to find among others' by it, at
    ``contrastive_temperature``; ``distances`` and ``angles``: how differently both see who is near whom. What each is worth is in
    docs/experiments.md.
    """

    kl: float = Field(default=0.0, ge=0, le=10)
    kl_temperature: float = Field(default=2.0, gt=0, le=20)
    listwise: float = Field(default=0.3, ge=0, le=10)
    hints: float = Field(default=0.0, ge=0, le=10)
    contrastive: float = Field(default=0.0, ge=0, le=10)
    contrastive_temperature: float = Field(default=0.1, gt=0, le=20)
    distances: float = Field(default=0.0, ge=0, le=10)
    angles: float = Field(default=0.0, ge=0, le=10)
    dynamic_temperature: bool = True

    @property
    def on_representations(self) -> bool:
        """Return whether any of them needs teachers' representations."""
        return max(self.hints, self.contrastive, self.distances, self.angles) > 0


class StudentConfig(Section):
    """Shape and train the student.

    ``element_dropout``: at 64 dimensions and more; fewer get as much less as makes the same noise in a score.

    ``ordered_items``: so many of a history's newest items count by their place, too; all of them by how recent they are.

    ``replay_kind``: ``uniform``; ``recency`` draws half of the replay among the newest queries; ``quota`` draws no item as a target more often than
    the average one. ``bootstrap_rounds``: a step of a bootstrap or an offline protocol learns in rounds of ``bootstrap_passes`` passes, at most so
    many, as long as each finds more of what users did last, which is held out; 1 holds none out. ``bootstrap_rate``: a factor on the learning
    rate of such a step. ``faster_rate``: while it begins, a student also learns so many times as fast, and goes on from there, slowing down, where
    that finds more of what comes next (up to 200,000 items); 1 tries nothing.
    ``corrective_steps``: after a deletion the rows that the user touched get so many mini-batches of what others did with them.
    """

    losses: LossesConfig = LossesConfig()
    dim: int = Field(default=64, ge=2, le=1024)
    scale: float = Field(default=9.0, gt=0)
    ordered_items: int = Field(default=3, ge=1, le=64)
    distill_weight: float = Field(default=0.6, ge=0, le=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    bootstrap_rate: float = Field(default=0.6, gt=0, le=100)
    faster_rate: float = Field(default=5.0, ge=1, le=100)
    batch_size: int = Field(default=256, ge=1)
    new_passes: int = Field(default=1, ge=1)
    bootstrap_passes: int = Field(default=4, ge=1)
    bootstrap_rounds: int = Field(default=1, ge=1)
    replay_passes: int = Field(default=1, ge=0)
    replay_capacity: int = Field(default=100_000, ge=0)
    replay_kind: Literal["uniform", "recency", "quota"] = "uniform"
    history_dropout: float = Field(default=0.2, ge=0, lt=1)
    element_dropout: float = Field(default=0.3, ge=0, lt=1)
    num_negatives: int = Field(default=2048, ge=1)
    full_softmax_items: int = Field(default=6000, ge=1)
    corrective_steps: int = Field(default=8, ge=0, le=1000)
    control: bool = True


class FurtherStudent(Section):
    """Shape and train one more student from the same lessons, with a version line of its own; what is not given is as the student's.

    ``namespaces``: it learns of these alone; none given: of all.
    """

    namespaces: tuple[str, ...] = ()
    losses: LossesConfig | None = None
    dim: int | None = Field(default=None, ge=2, le=1024)
    scale: float | None = Field(default=None, gt=0)
    distill_weight: float | None = Field(default=None, ge=0, le=1)
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    history_dropout: float | None = Field(default=None, ge=0, lt=1)
    element_dropout: float | None = Field(default=None, ge=0, lt=1)
    num_negatives: int | None = Field(default=None, ge=1)
    full_softmax_items: int | None = Field(default=None, ge=1)

    def completed(self, student: StudentConfig) -> StudentConfig:
        """Return its settings with those of the student where none are given."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "namespaces" and getattr(self, name) is not None}
        return student.model_copy(update=given)


class RegistryConfig(Section):
    """Keep and promote versions.

    ``keep_history``: moves of the alias, and versions that are gone whose decisions stay, that are kept. Moves younger than ``keep_history_for_s``
    stay beyond it. ``gate_error``: the share of candidates no worse than ``gate_tolerance`` allows that may be rejected, however often the gate looks
    at each. ``usual_share``: nothing goes live by events in which live version and candidate lead the popular items by surely less than that share of
    the usual lead, or that has learned from such; 0 asks nothing. ``max_rejections``: after so many in a row the learner returns to the state that
    was promoted last, and what was learned since is quarantined; 0 never. ``max_return_items``: nor with more items than this, because each version
    that is made copies a learner's state. ``probe_coverage``: a candidate's answers to some of a step's histories hold at least this share of as many
    different items as the live version's do; ``probe_overlap``: and at least this share of the same, unless it is measurably better; 0 does not ask.
    ``worth_window_s``: what a user takes so long after an answer that showed it is put down to the answer. ``worth_max_answers``: so many logged
    answers may wait for that. ``guard_share``: a version is rolled back when surely less than this share of its logged answers leads to something,
    against those of before; 0 never. ``guard_error``: the chance of that for a version that holds the share. ``guard_min_answers``: so many answers,
    each user counted once a step, are needed of before and since; after ten times as many the version is no longer watched.
    """

    keep_last: int = Field(default=20, ge=2)
    keep_for_s: Duration = 600.0
    keep_history: int = Field(default=1000, ge=2)
    keep_history_for_s: Duration = 86_400.0
    gate_tolerance: float = Field(default=0.1, ge=0, le=1)
    gate_min_queries: int = Field(default=100, ge=1)
    gate_error: float = Field(default=0.05, gt=0, lt=1)
    usual_share: float = Field(default=0.3, ge=0, lt=1)
    max_rejections: int = Field(default=8, ge=0)
    max_return_items: int = Field(default=100_000, ge=0)
    probe_coverage: float = Field(default=0.5, ge=0, le=1)
    probe_overlap: float = Field(default=0.1, ge=0, le=1)
    worth_window_s: Duration = 300.0
    worth_max_answers: int = Field(default=50_000, ge=0)
    guard_share: float = Field(default=0.5, ge=0, lt=1)
    guard_error: float = Field(default=0.01, gt=0, lt=1)
    guard_min_answers: int = Field(default=200, ge=1)


class LakeConfig(Section):
    """Keep applied events in a Delta Lake table.

    ``address``: a folder, ``s3://…`` or ``gs://…``; empty stands for ``lake`` below the state. ``max_buffer_bytes``: so much waits in memory for
    the next checkpoint at most; beyond it the lake commits early. ``optimize_every``: commits from one merging of small files to the next, 0
    leaves it to ``streamrec lake optimize``. ``keep_for_s``: how long readers of an older version may take before its files go,
    so 0 is for a table that nobody reads meanwhile. What no commit named, as of a writer that was killed, stays for an hour at least.
    """

    enabled: bool = True
    address: Address = ""
    max_buffer_bytes: int = Field(default=64 << 20, ge=1)
    optimize_every: int = Field(default=100, ge=0)
    target_file_bytes: int = Field(default=128 << 20, ge=1024)
    keep_for_s: Duration = 86_400.0


class PipelineConfig(Section):
    """Pace the loop.

    ``batch_interval_s``: a micro-batch begins so long after the one before at the earliest, unless a full one is waiting. Few events cost a
    micro-batch nearly as much as many, and what is saved goes to serving and training. A micro-batch takes what an interval is enough for, at
    least ``min_batch_events``, and up to ``max_batch_events`` the further the stream is behind.
    """

    max_batch_events: int = Field(default=8192, ge=1)
    min_batch_events: int = Field(default=LEAST_BATCH_EVENTS, ge=1)
    batch_interval_s: Duration = 0.5
    publish_interval_s: Duration = 0.0
    checkpoint_interval_s: Duration = 10.0
    idle_promote_s: Duration = 2.0

    @model_validator(mode="before")
    @classmethod
    def _follow_a_small_largest(cls, values: Any) -> Any:
        """Lower the default of the least where the most is given alone, and below it."""
        largest = values.get("max_batch_events") if isinstance(values, dict) and "min_batch_events" not in values else None
        return {**values, "min_batch_events": largest} if isinstance(largest, int) and largest < LEAST_BATCH_EVENTS else values

    @field_validator("min_batch_events")
    @classmethod
    def _not_above_the_largest(cls, value: int, info: ValidationInfo) -> int:
        largest = info.data.get("max_batch_events")
        if largest is not None and value > largest:
            msg = f"1 to max_batch_events = {largest}"
            raise ValueError(msg)
        return value


TAKEN_NAMES = ("default", "student", "control", "live")


class Config(Section):
    """Hold every setting of a deployment. ``students``: further ones by name, each a table ``students.NAME``."""

    state: Address = Field(default="runs/default", min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    events: EventsConfig = EventsConfig()
    log: LogConfig = LogConfig()
    features: FeaturesConfig = FeaturesConfig()
    teachers: TeachersConfig = TeachersConfig()
    soft_labels: SoftLabelsConfig = SoftLabelsConfig()
    student: StudentConfig = StudentConfig()
    students: dict[str, FurtherStudent] = Field(default_factory=dict)
    registry: RegistryConfig = RegistryConfig()
    serving: ServingConfig = ServingConfig()
    pipeline: PipelineConfig = PipelineConfig()
    lake: LakeConfig = LakeConfig()
    placement: PlacementConfig = PlacementConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @field_validator("students")
    @classmethod
    def _have_names_of_their_own(cls, values: dict[str, FurtherStudent]) -> dict[str, FurtherStudent]:
        for name in values:
            if name in TAKEN_NAMES or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
                msg = f"student {name!r}, allowed names of up to 40 of a-z, 0-9 and -, other than {', '.join(TAKEN_NAMES)}"
                raise ValueError(msg)
        return values
