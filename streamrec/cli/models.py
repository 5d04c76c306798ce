"""List versions, show one, or compare two."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from streamrec.cli.options import Models
from streamrec.cli.show_config import resolve
from streamrec.cli.telling import ago, lines_of, out_console
from streamrec.clock import SystemClock
from streamrec.config import check_student
from streamrec.errors import Damaged, RegistryError, StorageError
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.version_change import version_change
from streamrec.registry.gate import Decision
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionManifest
from streamrec.storage import open_storage

METRIC = "student.recall@20"
"""The one of a version's numbers that the list has room for."""


def run(options: Models) -> int:
    """Do what was asked; return 1 when a version that is listed can't be read."""
    config = resolve(options.settings)
    registry = Registry(open_storage(registry_url(config.state)), check_student(config, options.student))
    if options.action == "list":
        return _list(options, registry)
    if options.action == "show":
        facts = _facts(registry, options.versions[0])
        sys.stdout.write(json.dumps(facts) + "\n" if options.json else lines_of(_shown(facts)))
        return 0
    old, new = (registry.load(version) for version in options.versions)
    change = {"old": old.id, "new": new.id, **version_change(old, new)}
    sys.stdout.write(json.dumps(change) + "\n" if options.json else lines_of(_compared(change)))
    return 0


def _list(options: Models, registry: Registry) -> int:
    is_broken, rows = False, []
    for version in registry.versions()[::-1][: options.last]:
        try:
            rows.append(_row(registry, version))
        except Damaged as error:
            sys.stderr.write(f"{error}\n")
            is_broken = True
        except (RegistryError, StorageError):
            if version in registry.versions():
                raise
            # A stream that goes on has removed it meanwhile.
    if options.json:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    elif rows:
        now_ms, table = SystemClock().now_ms(), Table("version", "is", "made", "continues", "teachers", METRIC, "decision")
        for row in rows:
            metric, teachers = row["metrics"].get(METRIC), " ".join(f"{name} {version}" for name, version in row["teachers"].items())
            made, shown = ago(row["created_ms"], now_ms), "–" if metric is None else f"{metric:.4f}"
            table.add_row(row["version"], " ".join(row["is"]), made, row["parent"] or "–", teachers or "none", shown, _verdict(row["decision"]))
        out_console().print(table)
    else:
        sys.stderr.write(f"student {registry.student} has no versions yet\n")
    return int(is_broken)


def _row(registry: Registry, version: str) -> dict[str, Any]:
    manifest, decisions = registry.manifest(version), registry.decisions(version)
    facts = manifest.model_dump(mode="json", include={"version", "created_ms", "parent", "teachers", "offsets", "metrics"})
    return {**facts, "is": _marks(registry, version), "decision": decisions[-1].model_dump(mode="json") if decisions else None}


def _marks(registry: Registry, version: str) -> list[str]:
    move = registry.alias()
    marks = {"live": move is not None and move.version == version, "previous": registry.previous() == version}
    return [name for name, holds in {**marks, "pinned": version in registry.pinned()}.items() if holds]


def _facts(registry: Registry, version: str) -> dict[str, Any]:
    """Return all that is known of a version but its weights and its probes."""
    manifest: VersionManifest = registry.manifest(version)
    moves = [move.model_dump(mode="json", exclude={"decision", "trail"}) for move in registry.history() if move.version == version]
    decisions = [decision.model_dump(mode="json") for decision in registry.decisions(version)]
    shown = manifest.model_dump(mode="json", exclude={"probes", "base", "deltas", "format"})
    sizes = {"bytes": sum(blob.bytes for blob in manifest.blobs), "deltas": len(manifest.deltas)}
    return {**shown, **sizes, "is": _marks(registry, version), "decisions": decisions, "moves": moves}


def _shown(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    now_ms = SystemClock().now_ms()
    yield "version", f"{facts['version']} of student {facts['student']}{''.join(f', {mark}' for mark in facts['is'])}"
    yield "made", f"{ago(facts['created_ms'], now_ms)}, seed {facts['seed']}"
    yield "continues", facts["parent"] or "nothing before"
    for topic, ends in facts["offsets"].items():
        yield "learned", f"{topic} up to {' '.join(f'{part}:{end}' for part, end in ends.items())}"
    yield "teachers", ", ".join(f"{name} {version}" for name, version in facts["teachers"].items()) or "none"
    for name, value in facts["metrics"].items():
        yield "metric", f"{name} {'–' if value is None else f'{value:.4f}'}"
    for decision in facts["decisions"]:
        yield "decision", f"batch {decision['batch']}: {decision['verdict']} ({decision['code']}), {decision['reason']}"
        yield "", _numbers(decision["numbers"])
    for move in facts["moves"]:
        yield "move", f"{move['number']}: {move['action']} {ago(move['at_ms'], now_ms)}, {move['reason']}"
    yield "weights", f"{facts['bytes']} bytes, a base and {facts['deltas']} deltas, {facts['digest']}"


def _compared(change: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "versions", f"{change['old']} → {change['new']}"
    for topic, counts in change["learned"].items():
        yield "learned", f"{sum(counts.values())} records of {topic} ({' '.join(f'{part}:{num:+d}' for part, num in counts.items())})"
    items, moved = change["items"], change["moved"]
    yield "items", f"{items['before']} → {items['after']}, {items['added']} added, {items['gone']} gone"
    if moved is not None:
        cosines = f"cosine {moved['mean_cosine']:.4f} on average, {moved['least_cosine']:.4f} at the least"
        yield "vectors", f"{moved['changed']} of {moved['items']} changed, {cosines}"
    for kind in ("teachers", "metrics", "config"):
        for name, (old, new) in change[kind].items():
            yield kind, f"{name} {_cell(old)} → {_cell(new)}"


def _verdict(decision: Mapping[str, Any] | None) -> str:
    if decision is None:
        return "–"
    found = Decision.model_validate(decision)
    numbers = found.numbers
    compared = f" {numbers['candidate']:.4f} against {numbers['live']:.4f} on {numbers['num_queries']:.0f}" if numbers.get("live") is not None else ""
    return f"{found.verdict} ({found.code}){compared}"


def _numbers(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in numbers.items())


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
