"""Say of each process whether its memory grows: the slope of a line with its standard error, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks._processes import SUMS, Series, Watch, slope

FLOOR_MB_PER_MIN = 0.25
"""Slower growth is no finding of a run of minutes: in ten of them it is two or three of the 1 MiB blocks that Python takes its memory in."""

ENDING = ("fit_transformer", "TrainController", "RayTrainWorker", "PlacementGroupCleaner", "IDLE")
"""Processes that end with the refresh that they are for, or wait for work: on a busy machine one may live from the warm-up to the end."""

SURE = 3.0
"""Errors beyond which growth is called sure. Of thirty processes that do not grow one in two runs has one beyond twice its error."""


@dataclass(frozen=True)
class Line:
    """Hold what a series does in a minute, the standard error of that, and how it ends."""

    per_minute: float
    error: float
    last: float

    @classmethod
    def of(cls, series: Series) -> Line:
        """Fit it."""
        per_second, error = slope(series.times, series.values)
        return cls(60 * per_second, 60 * error, series.values[-1])

    @property
    def at_least(self) -> float:
        """Return the slope less twice its error."""
        return self.per_minute - 2 * self.error

    @property
    def verdict(self) -> str:
        """Return ``flat`` (within twice its error of 0, or falling, or below the floor), ``unsure`` or, beyond `SURE` errors, ``GROWS``."""
        if self.at_least <= 0 or self.per_minute <= FLOOR_MB_PER_MIN:
            return "flat"
        return "unsure" if self.per_minute <= SURE * self.error else "GROWS"


def lines(watch: Watch, warm_s: float) -> dict[str, Line]:
    """Return the line through each process that lived from the warm-up to the end, and through the sums, and print them with their verdicts."""
    lived = {f"{watch.titles.get(pid, 'unknown')} {pid}": series.since(warm_s) for pid, series in watch.processes.items()}
    num = len(watch.others[SUMS[0]].since(warm_s).times)
    whole = {name: series for name, series in lived.items() if len(series.times) >= 0.95 * num and not name.startswith(ENDING)}
    print(f"processes {len(whole)} lived throughout, {len(lived) - len(whole)} came or went")
    whole |= {name: watch.others[name].since(warm_s) for name in SUMS}
    found = {name: Line.of(series) for name, series in whole.items()}
    for name in sorted(found, key=lambda name: -found[name].per_minute):
        line = found[name]
        most = f"at most {line.per_minute + 2 * line.error:+.2f}"
        print(f"memory {name}: {line.per_minute:+.2f} ± {line.error:.2f} MB a minute ({line.verdict}, {most}): {thinned(whole[name].values)} MB")
    return found


def summary(found: Mapping[str, Line], named: Iterable[str]) -> dict[str, float | int | str | None]:
    """Return flat facts: who grows for sure and perhaps, the one that grows fastest for sure, and slope, error and end of some by name.

    Of several of one name it is the worst.
    """
    own = {name: line for name, line in found.items() if name not in SUMS}
    worst = max(own, key=lambda name: own[name].at_least)
    growing, unsure = (sorted(name.rpartition(" ")[0] for name, line in own.items() if line.verdict == verdict) for verdict in ("GROWS", "unsure"))
    result: dict[str, float | int | str | None] = {
        "num_processes": len(own), "num_growing": len(growing), "growing": ", ".join(growing), "unsure": ", ".join(unsure),
        "slope_mb_per_min_max": own[worst].per_minute, "slope_process": worst.rpartition(" ")[0], "slope_error": own[worst].error,
        "slope_mb_per_min_all": found[SUMS[0]].per_minute, "slope_error_all": found[SUMS[0]].error,
    }  # fmt: skip
    for name in named:
        alike = [line for title, line in own.items() if title.startswith(name)]
        worst_alike = max(alike, key=lambda line: line.at_least, default=None)
        facts = (None, None, None) if worst_alike is None else (worst_alike.per_minute, worst_alike.error, worst_alike.last)
        result |= zip((f"{name.lower()}_{part}" for part in ("mb_per_min", "error", "mb_last")), facts, strict=True)
    return result


def thinned(values: list[float], num: int = 12) -> str:
    """Return some of the values, the last one among them."""
    return " ".join(f"{value:.1f}" for value in values[:: -max(1, len(values) // num)][::-1])
