"""Hold what a report tells: plain values, so that the page and the JSON say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamrec.config.teacher_names import CONTROL, STUDENT

METRIC = "recall@20"
Z = 1.96
"""Standard errors of a band: 95 % of chance lies within."""

LEAST_QUERIES = 100
"""Fewer say nothing: they have no error and no verdict, and make no point of a curve."""

BASELINES = ("popular", "recent_popular", "own_history")


@dataclass(frozen=True)
class Line:
    """Hold how one model did over the course; None where it had no queries.

    Attributes:
        model: Its name.
        mean: Recall@20 of each point.
        low: Lower end of each band.
        high: Upper end.
    """

    model: str
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True)
class Mark:
    """Say what happened at a place of the course.

    Attributes:
        at: Where, on the same scale as `Course.at`.
        kind: ``promote``, ``rollback`` or ``refresh``.
        what: A version, or a teacher and its version.
    """

    at: float
    kind: str
    what: str


@dataclass(frozen=True)
class Course:
    """Hold learning curves.

    Attributes:
        scale: What ``at`` counts: ``events`` read so far, or ``blocks``.
        at: End of each point.
        at_ms: Processing time of each; empty where that says nothing.
        num_queries: Queries of the student in each.
        num_events: Records that each read; empty where that is not known.
        lines: The models.
        gain: The student less its control, by query; None where there is no control.
        marks: What happened.
    """

    scale: str
    at: tuple[int, ...]
    at_ms: tuple[int, ...]
    num_queries: tuple[int, ...]
    num_events: tuple[int, ...]
    lines: tuple[Line, ...]
    gain: Line | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Score:
    """Say how good a model was at events that it had not learned from.

    Attributes:
        model: Its name.
        kind: ``student``, ``control``, ``teacher`` or ``baseline``.
        num_queries: How many it answered.
        metrics: Means over all of them; of a backtest over its blocks.
        error: Standard error of Recall@20; None where it is not known.
        recent: Recall@20 over the newest; None for a backtest.
    """

    model: str
    kind: str
    num_queries: int
    metrics: Mapping[str, float]
    error: float | None = None
    recent: float | None = None


@dataclass(frozen=True)
class Gain:
    """Say what teachers add to the student: Recall@20 beside the same student on events alone, on the same queries.

    Attributes:
        mean: The difference.
        error: Its standard error; None where it is not known.
        num_queries: How many it rests on.
    """

    mean: float
    error: float | None
    num_queries: float


@dataclass(frozen=True)
class CameIn:
    """Say what came in.

    Attributes:
        books: ``received`` and the columns that sum to it.
        num_users: With a history.
        num_items: With a row.
        quarantine: Ranges, and events in them.
    """

    books: Mapping[str, int]
    num_users: int | None = None
    num_items: int | None = None
    quarantine: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Decided:
    """Say what became of a version, and why.

    Attributes:
        student: Whose.
        version: The one.
        verdict: ``promote``, ``reject``, ``wait``, or ``rollback``.
        code: The gate's reason; empty for a person's or the guard's move.
        reason: As a sentence.
        live: What was live.
        at_ms: When it was moved; None where nothing moved.
        numbers: What it was decided by.
    """

    student: str
    version: str
    verdict: str
    code: str
    reason: str
    live: str | None
    at_ms: int | None
    numbers: Mapping[str, float | None]


@dataclass(frozen=True)
class Refresh:
    """Say what one version of a teacher took.

    Attributes:
        teacher: Its name.
        version: The version.
        seconds: Wall time of the fit; None where it was not noted.
        num_workers: That worked on it.
        why: Why it was made.
    """

    teacher: str
    version: str
    seconds: float | None
    num_workers: int
    why: str


@dataclass(frozen=True)
class Costs:
    """Say what stages took.

    Attributes:
        num_steps: So many were measured.
        seconds: Stage to wall seconds in all.
        refreshes: Of teachers, as far as their versions are kept.
    """

    num_steps: int
    seconds: Mapping[str, float]
    refreshes: tuple[Refresh, ...] = ()


@dataclass(frozen=True)
class Spread:
    """Count times by bucket.

    Attributes:
        bounds_s: Upper bounds, inclusive.
        counts: One more than there are bounds.
        quantiles_s: ``p50``, ``p95`` and ``p99``, interpolated within their bucket; None beyond the last bound.
    """

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles_s: Mapping[str, float | None]


@dataclass(frozen=True)
class Freshness:
    """Say how old things were.

    Attributes:
        learned: From the log's record to the end of the step that learned from it.
        promoted: From a version's making to its promotion.
        outside: As clients measured it, where a demo did: ``state_ms_p50`` and the like.
    """

    learned: Spread | None = None
    promoted: Spread | None = None
    outside: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Shares:
    """Say how evenly places went to items.

    Attributes:
        num_places: In all.
        num_items: That got one.
        coverage: Share of all items that got one.
        top_1: Share of places that went to the hundredth of items that got most.
        top_10: The same of the tenth.
        gini: 0: all items got as many; 1: one got all.
        lorenz: Share of places that went to the first 0, 5, 10, … 100 hundredths of items, those with most first.
    """

    num_places: int
    num_items: int
    coverage: float
    top_1: float
    top_10: float
    gini: float
    lorenz: tuple[float, ...]


@dataclass(frozen=True)
class Shown:
    """Say how often an item was among what was recommended."""

    item: str
    title: str
    num: int
    share: float


@dataclass(frozen=True)
class Exposure:
    """Say which items get seen: the live version was asked for twenty items for a sample of histories.

    Attributes:
        version: That was asked.
        namespace: Whose users and items.
        num_histories: Of so many users.
        num_items: That there are.
        recommended: Of what it answered.
        used: Of what all users took, lately.
        top: The items that it named most.
    """

    version: str
    namespace: str
    num_histories: int
    num_items: int
    recommended: Shares
    used: Shares | None
    top: tuple[Shown, ...]


@dataclass(frozen=True)
class Report:
    """Hold a whole report.

    Attributes:
        kind: ``run`` or ``backtest``.
        name: Of the run's folder, or of the data.
        made_ms: Processing time of the making; nothing else in here depends on when that is.
        about: What it is of, name to value.
        scores: Each model's, student first.
        course: Learning curves.
        gain: What teachers add.
        forgetting: Model to ``la``, ``ra`` and ``h_mean``.
        came_in: What came in.
        decisions: Oldest first.
        costs: Of stages.
        freshness: Of a run.
        exposure: Of a run's live version.
        worth: What logged answers came to, a row a version and source.
        config: The run's, without what is secret.
        versions: Of the code.
        missing: Section to why it has nothing, a sentence.
    """

    kind: str
    name: str
    made_ms: int
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    course: Course | None = None
    gain: Gain | None = None
    forgetting: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    came_in: CameIn | None = None
    decisions: tuple[Decided, ...] = ()
    costs: Costs | None = None
    freshness: Freshness = field(default_factory=Freshness)
    exposure: Exposure | None = None
    worth: tuple[Mapping[str, Any], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def kind_of(model: str, teachers: Mapping[str, Any] | tuple[str, ...] = ()) -> str:
    """Return what kind of model a name is of; ``teachers`` are names that have no prefix, as in a backtest."""
    if model == CONTROL:
        return "control"
    if model == STUDENT or model.startswith("students."):
        return "student"
    return "teacher" if model.startswith("teachers.") or model in teachers else "baseline"


def in_order(models: Mapping[str, Any] | list[str]) -> list[str]:
    """Return names of models: student, control, further students, teachers, baselines, each by name."""
    places = {STUDENT: 0, CONTROL: 1, **{name: 4 + place for place, name in enumerate(BASELINES)}}
    return sorted(models, key=lambda model: (places.get(model, 2 if model.startswith("students.") else 3), model))
