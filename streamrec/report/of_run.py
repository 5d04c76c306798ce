"""Read a report out of what a run has left on storage, while its stream runs and while none does. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.config import Config, student_names
from streamrec.errors import OperatorError, StorageError, StreamrecError
from streamrec.evaluation.curve import GAIN, Point, joined
from streamrec.evaluation.gain import Gain as GainState
from streamrec.evaluation.progressive import Progressive
from streamrec.evaluation.worth import Worth
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.checkpoint import Checkpoint
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.lineage import current_lineage, url_of
from streamrec.pipeline.quarantined import quarantined
from streamrec.pipeline.readable import committed
from streamrec.pipeline.report import STAGES
from streamrec.pipeline.session import state_address
from streamrec.pipeline.spending import WAIT_BOUNDS_S
from streamrec.pipeline.stream_state import BOOK_COLUMNS, EARLIER, StreamState
from streamrec.registry.registry import Registry
from streamrec.registry.version import batch_of
from streamrec.report.decided import decisions_of, promotion_waits
from streamrec.report.exposure import exposure_of
from streamrec.report.facts import (
    LEAST_QUERIES,
    METRIC,
    CameIn,
    Costs,
    Course,
    Decided,
    Exposure,
    Freshness,
    Gain,
    Line,
    Mark,
    Refresh,
    Report,
    Score,
    Z,
    in_order,
    kind_of,
)
from streamrec.report.numbers import public, spread_of, spread_of_times
from streamrec.report.software import versions_here
from streamrec.serving.history_view import HistoryColumns
from streamrec.state import Component, ComponentState
from streamrec.storage import open_storage

SUMMARY = "summary.json"
"""Of a demo, beside its state: it measures from outside, as a client does."""

MOST_DRAWN = 64
"""Points of a curve: with more, their bands would hide what they show."""

_COMPONENTS = ("metrics", "gain", "worth")


def report_of_run(config: Config, now_ms: int) -> Report:
    """Return the report of a state.

    Args:
        config: The resolved configuration, for where the state is.
        now_ms: Processing time.

    Raises:
        OperatorError: There is no state, or nothing was committed yet.
        Damaged: What the report is made from can't be read.
    """
    address = state_address(config)
    folder = None if "://" in address else Path(address)
    if folder is not None and not folder.is_dir():
        what = "Report: there is no such run"
        do = "name the folder of a run (`state` of its configuration), or the file that `streamrec backtest --json` wrote"
        raise OperatorError(what, got=address, do=do)
    held = committed(address, _COMPONENTS, looks_at_all=False)
    if held.error is not None:
        raise held.error
    if held.checkpoint is None or held.state is None:
        what = "Report: the run has committed nothing yet"
        raise OperatorError(what, got=address, do="let python -m jobs.bootstrap or jobs.stream run, or name another run's folder")
    lineage = url_of(address, current_lineage(address).folder)
    progressive, gain, worth = Progressive(), GainState(), Worth()
    for part in (progressive, gain, worth):
        _restore(part, held.checkpoint)
    registries = {name: Registry(open_storage(registry_url(address)), name) for name in student_names(config)}
    decisions = tuple(one for name, registry in registries.items() for one in decisions_of(name, registry))
    live = _live_config(registries, config)
    columns = load_history_columns(address)
    exposure, why_none = _exposure(live, next(iter(registries)), columns)
    outside = _outside(folder)
    missing = {"forgetting": "a stream asks nothing twice, so learning and retained accuracy are not recorded; `streamrec backtest` measures both"}
    missing |= {} if exposure is not None else {"exposure": why_none}
    missing |= _missing(progressive, held.state, outside, worth)
    return Report(
        "run",
        address.rstrip("/").rpartition("/")[2],
        now_ms,
        public(_about(address, lineage, held.checkpoint, held.state, registries)),
        _scores(progressive),
        _course(progressive, held.state, decisions),
        _gain(gain),
        {},
        _came_in(held.state, lineage, columns),
        decisions,
        Costs(held.state.num_steps, _in_order_of_stages(held.state.spent_s), _refreshes(lineage)),
        Freshness(
            spread_of(held.state.waits, WAIT_BOUNDS_S),
            spread_of_times([wait for registry in registries.values() for wait in promotion_waits(registry)], WAIT_BOUNDS_S),
            outside,
        ),
        exposure,
        tuple(worth.facts()),
        public(live.model_dump(mode="json")),
        versions_here() | ({"run": str(held.checkpoint.facts["code"])} if "code" in held.checkpoint.facts else {}),
        missing,
    )


def _restore(part: Component, checkpoint: Checkpoint) -> None:
    base, *deltas = checkpoint.components.get(part.name, (ComponentState(),))
    part.restore(base, deltas)


def _missing(progressive: Progressive, state: StreamState, outside: Mapping[str, Any], worth: Worth) -> dict[str, str]:
    before = "not recorded by the release that made this run"
    only_demo = "not recorded: a stream does not see its clients; `make demo` measures freshness from outside"
    found = {
        "course": before if progressive.num_queries() and not progressive.curve.points else "nothing was evaluated yet",
        "costs": before,
        "learned": "nothing has been read since the bootstrap, or by a release that did not record it",
        "outside": only_demo,
        "worth": "no answer was logged (`serving.log_impressions` is 0), or none's time is over",
    }
    has = {
        "course": bool(progressive.curve.models()),
        "costs": state.num_steps > 0,
        "learned": any(state.waits),
        "outside": bool(outside),
        "worth": bool(worth.tallies),
    }
    return {name: why for name, why in found.items() if not has[name]}


def _live_config(registries: Mapping[str, Registry], config: Config) -> Config:
    """Return the configuration that the live version was made with, where it still can be read, at this state."""
    for registry in registries.values():
        with suppress(StreamrecError, ValueError):
            move = registry.alias()
            if move is not None:
                made_with = Config.model_validate(registry.manifest(move.version).config)
                return made_with.model_copy(update={"state": config.state, "lake": made_with.lake})
    return config


def _about(address: str, lineage: str, checkpoint: Checkpoint, state: StreamState, registries: Mapping[str, Registry]) -> dict[str, Any]:
    lives = {name: move.version for name, registry in registries.items() if (move := registry.alias()) is not None}
    about: dict[str, Any] = {"state": address}
    if lineage != address:
        about["lineage"] = lineage.removeprefix(f"{address}/")
    about |= {"commit": checkpoint.id, "batch": state.batch, "as_of_ms": state.planned_ms, "steps": state.num_steps}
    about |= {"live version" if name == "default" else f"live version of {name}": version for name, version in lives.items()}
    about |= {f"versions {outcome}": num for outcome, num in state.versions.items()}
    return about


def _scores(progressive: Progressive) -> tuple[Score, ...]:
    means, recent, num = progressive.means(), progressive.recent(), progressive.num_queries()
    errors = {model: _error(progressive, model, num[model]) for model in means}
    return tuple(Score(model, kind_of(model), num[model], means[model], errors[model], recent[model][METRIC]) for model in in_order(means))


def _error(progressive: Progressive, model: str, num_queries: int) -> float | None:
    """Return the standard error of a model's mean, None of few, and where its curve does not hold all of its queries."""
    counted, total, squares = progressive.curve.total(model)
    if counted < max(num_queries, LEAST_QUERIES):
        return None
    mean = total / counted
    return float((max(0.0, squares / counted - mean**2) / (counted - 1)) ** 0.5)


def _course(progressive: Progressive, state: StreamState, decisions: tuple[Decided, ...]) -> Course | None:
    points = joined(progressive.curve.points, MOST_DRAWN, LEAST_QUERIES)
    if not progressive.curve.models():
        return None
    at, total = [], 0
    for point in points:
        total += point.num_events
        at.append(total)
    models = progressive.curve.models()
    gain = _line(points, GAIN, -1.0) if GAIN in models else None
    times, batches = tuple(point.at_ms for point in points), [point.batch for point in points]
    return Course(
        "events",
        tuple(at),
        times,
        tuple(int(point.sums.get("student", [0.0])[0]) for point in points),
        tuple(point.num_events for point in points),
        tuple(_line(points, model, 0.0) for model in in_order(models) if model != GAIN),
        gain,
        tuple(_marks(at, batches, times, state, decisions)),
    )


def _line(points: list[Point], model: str, least: float) -> Line:
    found = [point.mean(model) for point in points]
    band = [None if one is None else (one[0], max(least, one[0] - Z * one[1]), min(1.0, one[0] + Z * one[1])) for one in found]
    return Line(model, *(tuple(None if one is None else one[part] for one in band) for part in range(3)))


def _marks(at: list[int], batches: list[int], times: tuple[int, ...], state: StreamState, decisions: tuple[Decided, ...]) -> list[Mark]:
    """Return what happened, where it did: versions bear the number of their step, moves their time."""

    def of_batch(batch: int) -> float | None:
        return next((float(end) for end, last in zip(at, batches, strict=True) if last >= batch), None)

    def of_time(at_ms: int) -> float:
        return next((float(end) for end, time in zip(at, times, strict=True) if time >= at_ms), float(at[-1]))

    marks = [Mark(of_time(one.at_ms), one.verdict, one.version) for one in decisions if one.at_ms is not None and one.student == "default"]
    for key in state.labels:
        teacher, _, version = key.partition(" ")
        if version != EARLIER and version != "counted" and (place := of_batch(batch_of(version))) is not None:
            marks.append(Mark(place, "refresh", f"{teacher} {version}"))
    return sorted(marks, key=lambda mark: (mark.at, mark.kind, mark.what))


def _gain(gain: GainState) -> Gain | None:
    found = gain.estimate()
    return None if found is None else Gain(found.mean, found.error, found.num_queries)


def _came_in(state: StreamState, lineage: str, columns: HistoryColumns | None) -> CameIn:
    books = {name: state.counts.get(name, 0) for name in (*BOOK_COLUMNS, *(["lost"] if "lost" in state.counts else []))}
    records = list(quarantined(open_storage(lineage)))
    num_users = None if columns is None else int(np.count_nonzero(np.diff(columns.indptr)))
    num_items = None if columns is None else sum(1 for _, item in columns.item_ids if item)
    return CameIn(books, num_users, num_items, {"ranges": len(records), "events": sum(record.num_events for record in records)})


def _in_order_of_stages(spent_s: Mapping[str, float]) -> dict[str, float]:
    return {name: spent_s[name] for name in dict.fromkeys([*STAGES, *spent_s]) if name in spent_s}


def _refreshes(lineage: str) -> tuple[Refresh, ...]:
    """Return what teachers' versions say of themselves, those that are there."""
    storage = open_storage(lineage)
    found = []
    for key in sorted(storage.list("teachers")):
        if key.endswith("/manifest.json"):
            _, teacher, version, _ = key.split("/")
            with suppress(StorageError, ValueError, KeyError):
                facts = json.loads(storage.read(key))["facts"]
                seconds = facts.get("seconds")
                found.append(Refresh(teacher, version, seconds, int(facts.get("num_workers", 1)), str(facts.get("why", ""))))
    return tuple(found)


def _exposure(config: Config, student: str, columns: HistoryColumns | None) -> tuple[Exposure | None, str]:
    try:
        found = None if columns is None else exposure_of(config, student, columns)
    except StreamrecError as error:
        return None, f"the live version could not be asked: {error}"
    return found, "no version is live, or nobody has a history yet"


def _outside(folder: Path | None) -> dict[str, float | None]:
    """Return what a demo measured, nothing where there was none."""
    if folder is None or not (folder / SUMMARY).is_file():
        return {}
    with suppress(ValueError, OSError, AttributeError):
        values = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("freshness", {})
        return {str(name): value for name, value in values.items() if value is None or isinstance(value, int | float)}
    return {}
