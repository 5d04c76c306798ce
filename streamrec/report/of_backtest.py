"""Read a report out of what `streamrec backtest --json` has printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.errors import DatasetError
from streamrec.evaluation.curve import GAIN
from streamrec.report.facts import METRIC, CameIn, Costs, Course, Freshness, Gain, Line, Report, Score, Z, in_order, kind_of
from streamrec.report.numbers import public
from streamrec.report.software import versions_here

_BASELINES = ("popular", "recent_popular", "own_history")
_NEEDED = ("protocol", "metrics", "blocks", "queries", "seconds", "forgetting")


def report_of_backtest(path: Path, now_ms: int) -> Report:
    """Return the report of a backtest.

    Args:
        path: What `streamrec backtest --json` wrote to its output.
        now_ms: Processing time.

    Raises:
        DatasetError: The file is not that, or not whole.
    """
    held = _last_line(path)
    metrics: Mapping[str, Mapping[str, float]] = held["metrics"]
    teachers = tuple(name for name in metrics if not _is_ours(name))
    course = _course(held, teachers)
    before = "not recorded by the release that printed this backtest"
    missing = {
        "decisions": "a backtest publishes nothing, so nothing is promoted",
        "learned": "a backtest's events wait for nobody, so freshness means nothing in it",
        "exposure": "a backtest keeps ranks, not lists, so coverage and exposure are not recorded",
        "worth": "a backtest gives no answers",
    }
    missing |= {} if course is not None else {"course": before}
    missing |= {} if held["forgetting"] else {"forgetting": "it needs two blocks and more, and a backtest that was not broken off"}
    data: Mapping[str, Any] = held.get("dataset", {})
    about = {"file": path.name, "data": data.get("name", "not recorded"), **{name: held[name] for name in ("protocol", "blocks", "queries")}}
    return Report(
        "backtest",
        str(data.get("name", path.stem)),
        now_ms,
        about,
        tuple(_score(name, held, teachers) for name in in_order({_full(name, teachers): name for name in metrics})),
        course,
        _gain(held),
        {_full(name, teachers): values for name, values in held["forgetting"].items()},
        CameIn({"received": int(data["events"]), "applied": int(data["events"])}) if "events" in data else None,
        (),
        Costs(0, held["seconds"]),
        Freshness(),
        None,
        (),
        public(held.get("config", {})),
        versions_here() | ({"run": str(held["code"])} if "code" in held else {}),
        missing | ({} if "config" in held else {"config": before}) | ({} if "events" in data else {"came_in": before}),
    )


def _last_line(path: Path) -> dict[str, Any]:
    """Return the result, which follows a line for each block."""
    what = f"Report: {path} is no backtest's result"
    do = "give the file that `streamrec backtest --json > FILE` wrote to its end"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        held = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError) as error:
        raise DatasetError(what, got=str(error), do=do) from error
    lacking = [name for name in _NEEDED if not isinstance(held, dict) or name not in held]
    if lacking or not isinstance(held, dict):
        raise DatasetError(what, got=f"a last line without {', '.join(lacking)}", allowed="one object with the whole result", do=do)
    return held


def _is_ours(name: str) -> bool:
    return name in _BASELINES or name.startswith(STUDENT)


def _full(name: str, teachers: tuple[str, ...]) -> str:
    """Return a model's name as a run has it."""
    return f"teachers.{name}" if name in teachers else name


def _bare(name: str) -> str:
    return name.removeprefix("teachers.")


def _score(name: str, held: Mapping[str, Any], teachers: tuple[str, ...]) -> Score:
    bare = _bare(name)
    return Score(name, kind_of(name, teachers), held["queries"], held["metrics"][bare], _mean_error(held, bare))


def _mean_error(held: Mapping[str, Any], model: str) -> float | None:
    """Return the standard error of a mean over blocks, each counting once."""
    errors = held.get("per_block", {}).get("errors", {}).get(model, [])
    known = [error for error in errors if error is not None]
    return None if not known or len(known) < len(errors) else float(sum(error**2 for error in known) ** 0.5 / len(known))


def _gain(held: Mapping[str, Any]) -> Gain | None:
    found = [held["metrics"].get(name, {}).get(METRIC) for name in (STUDENT, f"{STUDENT}_events_only")]
    if None in found or not any(not _is_ours(name) for name in held["metrics"]):
        return None
    return Gain(found[0] - found[1], _mean_error(held, GAIN), held["queries"])


def _course(held: Mapping[str, Any], teachers: tuple[str, ...]) -> Course | None:
    per_block = held.get("per_block", {})
    queries = per_block.get("queries", [])
    if not queries:
        return None
    lines = []
    for full in in_order([_full(name, teachers) for name in held["metrics"]]):
        means = per_block[METRIC].get(_bare(full), [])
        errors = per_block["errors"].get(_bare(full), [])
        errors = [*errors, *[None] * (len(means) - len(errors))]
        bands = [(mean, Z * (error or 0.0)) for mean, error in zip(means, errors, strict=False)]
        low, high = (tuple(None if mean is None else min(1.0, max(0.0, mean + sign * width)) for mean, width in bands) for sign in (-1, 1))
        lines.append(Line(full, tuple(means), low, high))
    gain = _gain_by_block(lines, per_block["errors"].get(GAIN, []))
    return Course("blocks", tuple(range(1, len(queries) + 1)), (), tuple(queries), (), tuple(lines), gain)


def _gain_by_block(lines: list[Line], errors: list[float | None]) -> Line | None:
    """Return the student less its control with the band of paired differences; None where a block lacks one of them."""
    means = {line.model: line.mean for line in lines}
    found = list(zip(means.get(STUDENT, ()), means.get(CONTROL, ()), errors, strict=False))
    known = [(one - other, Z * error) for one, other, error in found if one is not None and other is not None and error is not None]
    if not known or len(known) < len(means[STUDENT]):
        return None
    mean, low, high = (tuple(gain + sign * width for gain, width in known) for sign in (0, -1, 1))
    return Line(GAIN, mean, low, high)
