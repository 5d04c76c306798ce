"""Bring a demo's figures together, judge them, and print them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.pipeline.controller import Controller
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import VersionManifest
from streamrec.testing.percentiles import percentile

if TYPE_CHECKING:
    from jobs.demo import Run

PLAIN_WIDTH = 120  # columns of an output that goes to a file
MIN_SWAPS = 10
MIN_REFRESHES = 2
MIN_REQUESTS = 1000
MOST_OPEN_S = 30.0
FRESHNESS = ("state_ms_p50", "state_ms_p99", "model_s_p50", "model_s_p95", "num_state", "num_model", "lost", "num_open", "open_s_max")


def summarise(run: Run, board: RemoteBoard, registry: Registry, controller: Controller) -> dict[str, Any]:
    """Return the summary; docs/formats.md describes it."""
    state, measured = controller.state, run.measured
    books = {name: num - run.books_before.get(name, 0) for name, num in controller.books().items()}
    means = controller.progressive.means()
    recall = {name: values["recall@20"] for name, values in means.items()}
    teachers = {name.removeprefix("teachers."): value for name, value in recall.items() if name.startswith("teachers.")}
    swaps = _swaps(board, registry)
    return {
        "input": run.dataset.name,
        "broker": run.broker,
        "wall_s": round(run.elapsed_s, 1),
        "events": {
            "bootstrapped": run.bootstrapped,
            "produced": run.produced - run.bootstrapped,
            "probes": measured["posted"],
            **books,
        },
        "capacity_events_per_s": round(run.capacity, 1),
        "rate_events_per_s": round(run.rate, 1),
        "versions": dict(state.versions),
        "swaps": swaps,
        "requests": {name: measured[name] for name in ("sent", "failed", "failures", "p50_ms", "p99_ms")},
        "freshness": {name: measured[name] for name in FRESHNESS},
        "recall20": {**{name: value for name, value in recall.items() if not name.startswith("teachers.")}, "teachers": teachers},
        "refreshes": {"used": _used_refreshes(controller), "labels": dict(state.labels)},
        "ensemble_weights": controller.labelling.ensemble.weights([*state.teachers, *controller.labelling.counted.teachers]),
    }


def _swaps(board: RemoteBoard, registry: Registry) -> dict[str, Any]:
    report = [swap for swap in board.swap_report() if swap["all_replicas_ms"] is not None]
    times = [float(swap["all_replicas_ms"]) for swap in report]
    kept = set(registry.versions())  # A demo without an end prunes its first versions.
    return {
        "count": len({swap["version"] for swap in report}),
        "to_nothing_new": num_stale([registry.manifest(swap["version"]) for swap in report if swap["version"] in kept]),
        "all_replicas_ms_p50": percentile(times, 0.5),
        "all_replicas_ms_max": max(times, default=None),
    }


def num_stale(manifests: Sequence[VersionManifest]) -> int:
    """Return how many versions have the digest of the one before, or have not read further than it."""

    def has_read(manifest: VersionManifest) -> int:
        return sum(offset for partitions in manifest.offsets.values() for offset in partitions.values())

    return sum(new.digest == old.digest or has_read(new) <= has_read(old) for old, new in pairwise(manifests))


def _used_refreshes(controller: Controller) -> int:
    """Return how many transformer versions, made during the stream, gave labels."""
    versions = [key for key, num in controller.state.labels.items() if key.startswith("transformer ") and num]
    return max(0, len(versions) - 1)


def problems(summary: dict[str, Any]) -> list[str]:
    """Return what is wrong; nothing when the demo shows what it must."""
    events, recall, requests = summary["events"], summary["recall20"], summary["requests"]
    balance = sum(events[name] for name in ("applied", "duplicate", "rejected", "late", "quarantined", "pending"))
    expected = events["produced"] + events["probes"]
    found = [
        (events["received"] != balance, f"the books do not balance: {events['received']} received, {balance} accounted for"),
        (events["pending"] != 0, f"{events['pending']} events are pending"),
        # More is no fault: anybody may have posted events meanwhile.
        (events["received"] < expected, f"{expected} events were produced, {events['received']} received"),
        (requests["failed"] > 0, f"{requests['failed']} requests failed: {requests['failures']}"),
        (summary["swaps"]["to_nothing_new"] > 0, f"{summary['swaps']['to_nothing_new']} swaps were to the same weights or to no later offsets"),
        (summary["freshness"]["lost"] > 0, f"{summary['freshness']['lost']} events never changed an answer"),
        *((recall[STUDENT] <= recall[name], f"the student does not beat {name}") for name in ("popular", "recent_popular")),
    ]
    return [text for is_wrong, text in found if is_wrong]


def shortfalls(summary: dict[str, Any]) -> list[str]:
    """Return what a full demo shows and this one, bounded by its options or a slow machine, did not."""
    counts = [
        ("swaps", summary["swaps"]["count"], MIN_SWAPS),
        ("refreshes used", summary["refreshes"]["used"], MIN_REFRESHES),
        ("requests", summary["requests"]["sent"], MIN_REQUESTS),
    ]
    found = [f"{num} {name}, a full demo has {least} or more" for name, num, least in counts if num < least]
    open_s, recall = summary["freshness"]["open_s_max"] or 0.0, summary["recall20"]
    if open_s > MOST_OPEN_S:
        found.append(f"at the end an event had waited {open_s:.0f} s for a version that has read it")
    if recall[STUDENT] <= recall[CONTROL]:
        found.append("the student does not beat itself on events alone: the teachers added nothing")
    if recall[STUDENT] <= recall["own_history"]:
        found.append("the student does not beat the user's own history: here most of what users take next, they have taken before")
    return found


def show(summary: dict[str, Any], path: Path, wrong: list[str]) -> None:
    """Print the summary as tables, and what is wrong below."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    events = summary["events"]
    facts = Table(box=None, show_header=False, padding=(0, 2))
    accounted = " + ".join(f"{events[name]} {name}" for name in ("applied", "duplicate", "rejected", "late", "quarantined", "pending"))
    facts.add_row("books", f"{events['received']} received = {accounted}; {events['bootstrapped']} bootstrapped before")
    facts.add_row("versions", ", ".join(f"{num} {what}" for what, num in summary["versions"].items()))
    swaps, requests, freshness = summary["swaps"], summary["requests"], summary["freshness"]
    facts.add_row(
        "swaps", f"{swaps['count']}, all replicas within {_ms(swaps['all_replicas_ms_p50'])} (median), {_ms(swaps['all_replicas_ms_max'])} (max)"
    )
    facts.add_row("requests", f"{requests['sent']} sent, {requests['failed']} failed, p50 {_ms(requests['p50_ms'])}, p99 {_ms(requests['p99_ms'])}")
    facts.add_row(
        "state freshness", f"p50 {_ms(freshness['state_ms_p50'])}, p99 {_ms(freshness['state_ms_p99'])} (event acknowledged → answer used it)"
    )
    model = (f"{freshness[name]:.2f} s" if freshness[name] is not None else "-" for name in ("model_s_p50", "model_s_p95"))
    facts.add_row("model freshness", "p50 {}, p95 {} (event acknowledged → a version that learned from it answers)".format(*model))
    facts.add_row("refreshes", f"{summary['refreshes']['used']} by Ray Train during the stream whose labels were used")
    facts.add_row("labels", ", ".join(f"{name}: {num}" for name, num in summary["refreshes"]["labels"].items()))
    weights = (f"{name} {' '.join(f'{value:.2f}' for value in values)}" for name, values in summary["ensemble_weights"].items())
    facts.add_row("weights", "; ".join(weights) + " (histories of 1, 2–3, 4–10, more)")
    facts.add_row("rate", f"{summary['rate_events_per_s']:.0f} events/s produced, {summary['capacity_events_per_s']:.0f} measured capacity")
    _print(console, facts)
    scores = Table("progressive recall@20", "", box=None, padding=(0, 2))
    recall = summary["recall20"]
    rows = {**{name: value for name, value in recall.items() if name != "teachers"}, **{f"teacher {k}": v for k, v in recall["teachers"].items()}}
    for name, value in sorted(rows.items(), key=lambda item: -item[1]):
        scores.add_row(name, f"{value:.4f}", style="bold" if name == STUDENT else "")
    _print(console, scores)
    for text in shortfalls(summary):
        console.print(f"note: {text}", markup=False)
    for text in wrong:
        console.print(f"wrong: {text}", style="red", markup=False)
    console.print(f"{'FAILED' if wrong else 'OK'} in {summary['wall_s']:.0f} s, figures in {path}", markup=False, soft_wrap=True)


def _print(console: Console, table: Table) -> None:
    """Print a table; without the spaces that fill its last column where nobody looks at it."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as told:
        console.print(table)
    console.print("\n".join(line.rstrip() for line in told.get().splitlines()), markup=False, highlight=False)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
