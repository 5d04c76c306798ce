"""Print what a workload takes, and where one machine ends."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict

import psutil
from rich.table import Table

from streamrec.cli.options import Plan
from streamrec.cli.show_config import resolve_only
from streamrec.cli.telling import lines_of, out_console, size
from streamrec.config import parse_duration_s
from streamrec.errors import ConfigError
from streamrec.pipeline.capacity import Estimate, Machine, Workload, estimate
from streamrec.pipeline.measured import MEASURED

_AS_ON_A_CPU = "a training step counted as long as on a CPU core: how much shorter it is on a GPU was not measured"


def run(options: Plan) -> int:
    """Print the estimate; its figures' sources are in the JSON."""
    config = resolve_only(options.settings)
    for name, given in (("events-per-s", options.events_per_s), ("requests-per-s", options.requests_per_s), ("memory-gb", options.memory_gb)):
        if given is not None and not math.isfinite(given):
            what = f"Plan: --{name} is no number to plan with"
            raise ConfigError(what, got=given, allowed="a finite one", do="say how many are expected")
    try:
        retention_s = parse_duration_s(options.retention)
    except ValueError as error:
        what = f"Plan: --retention is no duration ({error})"
        raise ConfigError(what, do="write for example 7d or 24h") from error
    load = Workload(options.users, options.items, options.events_per_s, options.requests_per_s, retention_s)
    memory = psutil.virtual_memory().total if options.memory_gb is None else options.memory_gb * 1e9
    machine = Machine(options.cores or os.cpu_count() or 1, memory)
    found = estimate(config, load, machine)
    if options.json:
        constants = {name: asdict(constant) for name, constant in MEASURED.items()}
        shown = {"workload": asdict(load), "machine": asdict(machine), **asdict(found), "memory_bytes": found.memory_bytes, "constants": constants}
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        _print(found)
    return 0


def _print(found: Estimate) -> None:
    console = out_console()
    for title, parts, total in (("memory", found.memory, "in all, but the object store"), ("storage after a day", found.disk, "in all")):
        table = Table(title, "", "made of")
        for part in parts:
            table.add_row(part.name, size(part.bytes), part.of)
        table.add_row(total, size(sum(part.bytes for part in parts)), "")
        console.print(table)
    refreshes = f"{found.refreshes_per_day:.0f} a day by count, {found.worker_minutes_per_day:.0f} worker-minutes of them within the budget"
    sys.stdout.write(
        lines_of(
            [
                ("object store", size(found.object_store_bytes)),
                ("lake", f"{size(found.lake_bytes_per_day)} a day more"),
                ("commits", f"write {size(found.written_bytes_per_day)} a day at the most, nearly all of it in place of older ones"),
                ("replicas", f"{found.replicas} (serving.num_replicas)"),
                ("cores", f"{found.cores:.1f} for stream and replicas"),
                ("refreshes", refreshes),
                *(
                    [("GPUs", f"{found.gpu_hours_per_day:.1f} hours a day at the most, {_AS_ON_A_CPU}")]
                    if found.gpu_hours_per_day is not None
                    else []
                ),
                *(("placement", line) for line in found.places),
                *(("", line) for line in found.ends),
            ]
        )
    )
    sys.stderr.write("calculated from figures that were measured on two cores, most of them at 64 dimensions; --json names each one's source\n")
