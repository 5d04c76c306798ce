"""Name every metric once: what it is called, what it counts, and by which labels. Documentation, dashboard and alerts are held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Name what becomes of a metric's numbers."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


STEP_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
REQUEST_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

STATE_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
MODEL_BUCKETS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0, 60.0, 300.0)


@dataclass(frozen=True)
class Metric:
    """Describe a metric.

    Attributes:
        name: As Prometheus shows it; counters end in ``_total``, times in ``_seconds``.
        kind: What becomes of its numbers.
        help: What it counts, in a sentence.
        labels: By which it is split. Each has few values: no user, item, version or namespace.
        buckets: Upper bounds of a histogram's buckets, ascending, without infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_STREAM = (
    Metric("streamrec_events_total", Kind.COUNTER, "Records of the log by what became of them; quarantined ones were applied before.", ("outcome",)),
    Metric("streamrec_books_records", Kind.GAUGE, "The books since the state began, by column: received is the sum of all others.", ("column",)),
    Metric("streamrec_lag_records", Kind.GAUGE, "Records of the log that the stream has not read."),
    Metric("streamrec_read_offset", Kind.GAUGE, "Next record that the stream reads, of a topic's first 256 partitions.", ("topic", "partition")),
    Metric("streamrec_end_offset", Kind.GAUGE, "Next record that the log gets, of a topic's first 256 partitions.", ("topic", "partition")),
    Metric("streamrec_steps_total", Kind.COUNTER, "Micro-batches."),
    Metric("streamrec_step_seconds", Kind.HISTOGRAM, "Wall time of a micro-batch.", (), STEP_BUCKETS_S),
    Metric("streamrec_stage_seconds_total", Kind.COUNTER, "Wall time of micro-batches by stage.", ("stage",)),
    Metric("streamrec_queries_total", Kind.COUNTER, "Predictions that were scored before anything was learned from their events."),
    Metric("streamrec_score", Kind.GAUGE, "Recent mean of what a model finds of events that it has not learned from.", ("model", "measure")),
    Metric("streamrec_teachers_gain", Kind.GAUGE, "What teachers add to the student's recall@20, beside the same student on events alone."),
    Metric("streamrec_teachers_gain_error", Kind.GAUGE, "Standard error of streamrec_teachers_gain."),
    Metric("streamrec_teacher_weight", Kind.GAUGE, "A teacher's weight in the mixture, mean over history lengths.", ("teacher",)),
    Metric("streamrec_versions_total", Kind.COUNTER, "Versions of a student by what became of them.", ("student", "outcome")),
    Metric("streamrec_returns_total", Kind.COUNTER, "Times that students went back to a promoted state, what was learned since being quarantined."),
    Metric("streamrec_rollbacks_total", Kind.COUNTER, "Times that the guard rolled a live version back."),
    Metric("streamrec_alarms_total", Kind.COUNTER, "Times that something was found to have changed or to do harm, by what.", ("what",)),
    Metric("streamrec_refreshes_total", Kind.COUNTER, "Refreshes of a teacher by what became of them.", ("teacher", "outcome")),
    Metric("streamrec_refresh_seconds", Kind.GAUGE, "Time from a teacher's refresh to its first fresh label, the last one.", ("teacher",)),
    Metric("streamrec_commits_total", Kind.COUNTER, "Commits that were handed over."),
    Metric("streamrec_last_commit_timestamp_seconds", Kind.GAUGE, "When the last commit was handed over."),
    Metric("streamrec_items", Kind.GAUGE, "Items that have a row."),
    Metric("streamrec_users", Kind.GAUGE, "Users with a history."),
    Metric("streamrec_deletions_total", Kind.COUNTER, "Deletions that were carried out."),
    Metric(
        "streamrec_worth_answers",
        Kind.GAUGE,
        "Answers whose time is over since the state began, by whether the user took something; single versions are in /v1/models.",
        ("student", "source", "outcome"),
    ),
    Metric("streamrec_held", Kind.GAUGE, "1 while an operator's switch is in force.", ("switch",)),
)
_REPLICA = (
    Metric("streamrec_requests_total", Kind.COUNTER, "Requests by route and HTTP status.", ("replica", "route", "status")),
    Metric(
        "streamrec_request_seconds",
        Kind.HISTOGRAM,
        "Time from a request's arrival at a replica to its answer.",
        ("replica", "route"),
        REQUEST_BUCKETS_S,
    ),
    Metric("streamrec_answers_total", Kind.COUNTER, "Recommendations by where they come from.", ("replica", "source")),
    Metric("streamrec_posted_events_total", Kind.COUNTER, "Events that clients posted, by what became of them.", ("replica", "outcome")),
    Metric("streamrec_refused_total", Kind.COUNTER, "Requests that were shed, and recommendations that were too late.", ("replica", "why")),
    Metric(
        "streamrec_state_freshness_seconds",
        Kind.HISTOGRAM,
        "Time from a record's append to the log until a replica's histories have it, of a sample.",
        ("replica",),
        STATE_BUCKETS_S,
    ),
    Metric(
        "streamrec_model_freshness_seconds",
        Kind.HISTOGRAM,
        "Time from a record's append to the log until a replica answers with a version that has learned from it, of a sample.",
        ("replica",),
        MODEL_BUCKETS_S,
    ),
    Metric("streamrec_model_age_seconds", Kind.GAUGE, "Age of the version that a replica answers with.", ("replica",)),
    Metric("streamrec_model_promotion", Kind.GAUGE, "Number of the promotion that a replica answers with.", ("replica",)),
    Metric("streamrec_swaps_total", Kind.COUNTER, "Versions that a replica was given, by what became of them.", ("replica", "outcome")),
    Metric("streamrec_history_users", Kind.GAUGE, "Users whose history a replica holds.", ("replica",)),
    Metric("streamrec_history_events_total", Kind.COUNTER, "Interactions that a replica's histories took from the log.", ("replica",)),
    Metric("streamrec_history_writer", Kind.GAUGE, "Whether a replica writes the histories that are in Redis: 1 or 0.", ("replica",)),
    Metric("streamrec_history_unread_total", Kind.COUNTER, "Requests whose user's history Redis did not give, or an old one.", ("replica",)),
)
_BOARD = (
    Metric("streamrec_replicas", Kind.GAUGE, "Replicas that the board has heard of within 15 s."),
    Metric("streamrec_swap_seconds", Kind.GAUGE, "Time from the last promotion until all replicas answered with it."),
    Metric("streamrec_told_age_seconds", Kind.GAUGE, "How long ago the stream, or a replica, has last told its numbers.", ("source",)),
)

TABLE: tuple[Metric, ...] = (*_STREAM, *_REPLICA, *_BOARD)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in TABLE}
