"""Work out what a terminal shows from what a server tells of itself once a second (``GET /v1/live``); pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Frame = Mapping[str, Any]
Series = Mapping[str, Any]
Fits = Callable[[Series], bool]

OVER_S = 10.0
"""Rates are means of so long."""
_SMOOTH = 3
SPREAD_S = 30.0
MINUTE_S = 60.0
STALE_S = 15.0
"""A stream that has told nothing for so long does not learn just now, or does one long step."""

MEASURE = "recall@20"
_TOLD_MS = 60_000
_OWN_ROUTES = frozenset({"dashboard", "live", "metrics", "probe", "document"})
_SWITCHES = {"pause": "the stream is paused", "freeze-publishing": "publishing is frozen", "pin": "a version is pinned"}


@dataclass(frozen=True)
class Facts:
    """Hold what is shown; None is not known.

    Attributes:
        version: What is live.
        age_s: How long ago it was made.
        state_s: Half of the events are in users' histories within.
        model_s: Half of them are learned, and live, within.
        events_per_s: Records of the log that were booked.
        course: The same second by second, oldest first.
        lag: Records that wait in the log.
        learned: Events that were applied since the state began.
        requests_per_s: Without those of the dashboard and of probes.
        p50_ms: Half of the recommendations within.
        p99_ms: 99 % of them within.
        errors: Answers of status 5xx in the last minute.
        promoted: Versions, since the stream began.
        rejected: Versions, since the stream began.
        swap_ms: From the last promotion until all replicas answered with it.
        swap_version: Which one that was.
        replicas: How many answer.
        scores: Recent recall@20 of events that were not learned yet, by model.
        gain: What teachers add to the student's, and its standard error.
        notes: What holds or ails the stream, a sentence each.
        marks: What has happened, oldest first: milliseconds and what; refreshes are the process's own to tell.
    """

    version: str | None = None
    age_s: float | None = None
    state_s: float | None = None
    model_s: float | None = None
    events_per_s: float | None = None
    course: tuple[float, ...] = ()
    lag: int | None = None
    learned: int | None = None
    requests_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    promoted: int | None = None
    rejected: int | None = None
    swap_ms: float | None = None
    swap_version: str | None = None
    replicas: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    gain: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    marks: tuple[tuple[int, str], ...] = ()


def facts_of(frames: Sequence[Frame], bounds: Mapping[str, Sequence[float]], marks: Sequence[Mapping[str, Any]] = ()) -> Facts:
    """Return what the newest frame says, with rates since those before.

    Args:
        frames: Oldest first, a second apart.
        bounds: Upper bounds of each histogram's buckets.
        marks: What the board has seen happen, oldest first.
    """
    if not frames:
        return Facts()
    frame = frames[-1]
    live, swap = frame["live"], _last_swap(frame)
    spread = _spread(frames, bounds, "streamrec_request_seconds", lambda one: one["route"] == "recommend")
    state, model = (_spread(frames, bounds, f"streamrec_{what}_freshness_seconds") for what in ("state", "model"))
    gain, error = _sum(frame, "streamrec_teachers_gain"), _sum(frame, "streamrec_teachers_gain_error")
    scores = {one["model"]: one["value"] for one in _series(frame, "streamrec_score", lambda one: one["measure"] == MEASURE)}
    return Facts(
        version=None if live is None else live["model_version"],
        age_s=None if live is None else max(0.0, (frame["at_ms"] - live["created_ms"]) / 1000),
        state_s=None if state is None else state[0],
        model_s=None if model is None else model[0],
        events_per_s=rate(frames, "streamrec_events_total"),
        course=tuple(rate(pair, "streamrec_events_total") or 0.0 for pair in zip(frames, frames[_SMOOTH:], strict=False)),
        lag=_whole(_sum(frame, "streamrec_lag_records")),
        learned=_whole(_sum(frame, "streamrec_books_records", lambda one: one["column"] == "applied")),
        requests_per_s=rate(frames, "streamrec_requests_total", _is_asked),
        p50_ms=None if spread is None else 1000 * spread[0],
        p99_ms=None if spread is None else 1000 * spread[1],
        errors=round(sum(gain["value"] for gain in _gains(_recent(frames, MINUTE_S), "streamrec_requests_total", _is_error))),
        promoted=_whole(_sum(frame, "streamrec_versions_total", lambda one: one["outcome"] == "promoted")),
        rejected=_whole(_sum(frame, "streamrec_versions_total", lambda one: one["outcome"] == "rejected")),
        swap_ms=None if swap is None else swap["all_replicas_ms"],
        swap_version=None if swap is None else swap["version"],
        replicas=_whole(_sum(frame, "streamrec_replicas")),
        scores=scores,
        gain=None if gain is None else (gain, error or 0.0),
        notes=tuple(_notes(frame)),
        marks=tuple((mark["at_ms"], f"{mark['kind']} {mark['what']}".rstrip()) for mark in marks if mark["kind"] != "refresh"),
    )


def rate(frames: Sequence[Frame], name: str, fits: Fits = lambda _: True, over_s: float = OVER_S) -> float | None:
    """Return what a counter gained a second, None where nobody counts or there is one frame only.

    A series that is less than before began anew; one that was not there before counts from what it was first seen with.
    """
    if len(frames) < 2 or not _series(frames[-1], name, fits):
        return None
    recent = _recent(frames, over_s)
    passed_s = (recent[-1]["at_ms"] - recent[0]["at_ms"]) / 1000
    return sum(gain["value"] for gain in _gains(recent, name, fits)) / passed_s if passed_s > 0 else None


def _series(frame: Frame, name: str, fits: Fits = lambda _: True) -> list[Series]:
    return [one for one in frame["numbers"].get(name, ()) if fits(one)]


def _sum(frame: Frame, name: str, fits: Fits = lambda _: True) -> float | None:
    found = _series(frame, name, fits)
    return sum(one["value"] for one in found) if found else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _is_asked(one: Series) -> bool:
    return one["route"] not in _OWN_ROUTES


def _is_error(one: Series) -> bool:
    return _is_asked(one) and one["status"].startswith("5")


def _recent(frames: Sequence[Frame], over_s: float) -> Sequence[Frame]:
    """Return the frames of the last so many seconds."""
    last_ms = frames[-1]["at_ms"]
    return [frame for frame in frames if last_ms - frame["at_ms"] <= over_s * 1000 + 500]


def _gains(frames: Sequence[Frame], name: str, fits: Fits) -> Iterator[dict[str, Any]]:
    """Give what each series of the newest frame gained since the first frame that has it."""
    old: dict[tuple[tuple[str, Any], ...], Series] = {}
    for frame in frames:
        for one in _series(frame, name, fits):
            old.setdefault(_key(one), one)
    for one in _series(frames[-1], name, fits):
        was = old[_key(one)]
        buckets, older = one.get("buckets", []), was.get("buckets", [])
        began_anew = any(num < had for num, had in zip(buckets, older, strict=False)) if buckets else one["value"] < was["value"]
        if began_anew:
            yield {"value": one["value"], "buckets": buckets}
        else:
            yield {"value": one["value"] - was["value"], "buckets": [num - had for num, had in zip(buckets, older, strict=False)]}


def _key(one: Series) -> tuple[tuple[str, Any], ...]:
    return tuple((label, value) for label, value in one.items() if label not in {"value", "buckets"})


def _spread(frames: Sequence[Frame], bounds: Mapping[str, Sequence[float]], name: str, fits: Fits = lambda _: True) -> tuple[float, float] | None:
    """Return a histogram's median and its 99th percentile of late; None where it was shown nothing."""
    if len(frames) < 2 or name not in bounds:
        return None
    gains = [gain["buckets"] for gain in _gains(_recent(frames, SPREAD_S), name, fits)]
    buckets = [sum(nums) for nums in zip(*gains, strict=True)]
    if not sum(buckets):
        return None
    return _quantile(buckets, bounds[name], 0.5), _quantile(buckets, bounds[name], 0.99)


def _quantile(buckets: Sequence[int], limits: Sequence[float], share: float) -> float:
    wanted, seen = share * sum(buckets), 0
    for place, (num, high) in enumerate(zip(buckets, limits, strict=False)):  # The last bucket has no bound.
        if num and seen + num >= wanted:
            low = limits[place - 1] if place else 0.0
            return low + (high - low) * (wanted - seen) / num
        seen += num
    return limits[-1]


def _last_swap(frame: Frame) -> Mapping[str, Any] | None:
    done = [swap for swap in frame["course"].get("swaps", ()) if swap["all_replicas_ms"] is not None]
    return done[-1] if done else None


def _notes(frame: Frame) -> Iterator[str]:
    told = [one["value"] for one in _series(frame, "streamrec_told_age_seconds", lambda one: one["source"] == "stream")]
    if told and max(told) > STALE_S:
        yield f"the stream has said nothing for {max(told):.0f} s"
    for one in _series(frame, "streamrec_held", lambda one: one["value"] > 0):
        yield _SWITCHES.get(one["switch"], f"{one['switch']} is on")
    refused = frame["last_rejection"]
    if refused is not None and frame["at_ms"] - refused["at_ms"] < _TOLD_MS:
        yield f"a replica refused {refused['version']}: {refused['reason']}"
