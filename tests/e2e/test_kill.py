"""Kill the streaming driver in its middle and compare it with an undisturbed run that was given the same plans."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamrec.config import Config, parse_config
from streamrec.events.codec import encode_table
from streamrec.events.synthetic import synthetic_dataset
from streamrec.log.base import Record
from streamrec.log.connect import local_address, open_admin, open_writer
from streamrec.pipeline.plan_store import PlanStore
from streamrec.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
NUM_EVENTS, NUM_FIRST, NUM_SECOND = 5500, 2000, 4000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Ray's sockets live below it."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def settings(state: Path, log: Path) -> Config:
    return parse_config(
        {
            "state": str(state),
            "log": {"broker": f"local://{log}"},
            "features": {"lateness_s": "10000d", "history_length": 10},
            "student": {"dim": 16, "batch_size": 64},
            "teachers": {
                "transformer": {"dim": 16, "first_steps": 5, "refresh_steps": 3, "sequence_length": 8},
                "transformer_refresh_events": 1200,
                "linear_refresh_events": 700,
            },
            "pipeline": {"max_batch_events": 250, "checkpoint_interval_s": "1000s"},
        }
    )


def command(config: Config, folder: Path, job: str, *options: str) -> list[str]:
    path = folder / f"{Path(config.state).name}.yaml"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    return [sys.executable, "-m", f"jobs.{job}", "--config", str(path), *options]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def run(config: Config, folder: Path, job: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(command(config, folder, job, *options), cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_and_kill(config: Config, folder: Path, batch: int) -> None:
    """Start the stream and kill it with SIGKILL as soon as it reports ``batch``."""
    process = subprocess.Popen(
        command(config, folder, "stream", "--until-idle", "3s"),
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        found = re.match(r"batch (\d+),", line)
        if found and int(found.group(1)) >= batch:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert f"batch {batch}," in seen, seen[-2000:]


def append(log: Path, config: Config, start: int, end: int) -> None:
    events = synthetic_dataset(num_users=80, num_items=150, num_events=NUM_EVENTS).events
    keys, values = encode_table(events.slice(start, end - start))
    address = local_address(log)
    open_admin(address, config.log).ensure_topic(config.log.events_topic, config.log.num_partitions)
    open_writer(address, config.log).append(config.log.events_topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])


def test_a_killed_driver_ends_with_the_counts_and_the_bits_of_an_undisturbed_one(folder: Path) -> None:
    log = folder / "log"
    planned = settings(folder / "planned", log)
    append(log, planned, 0, NUM_FIRST)
    run(planned, folder, "bootstrap")
    shutil.copytree(folder / "planned", folder / "undisturbed")
    shutil.copytree(folder / "planned", folder / "killed")
    append(log, planned, NUM_FIRST, NUM_SECOND)
    run(planned, folder, "stream", "--until-idle", "30s")  # Long enough for the refresh that the next events use.
    append(log, planned, NUM_SECOND, NUM_EVENTS)
    run(planned, folder, "stream", "--until-idle", "3s")
    plans = PlanStore(open_storage(folder / "planned"))
    first, *_, last = plans.batches()
    for name in ("undisturbed", "killed"):
        target = PlanStore(open_storage(folder / name))
        for batch in range(first, last):  # The last one is the closing commit.
            if batch not in target.batches():
                target.write({**plans.read(batch), "checkpoint": batch % 4 == 0}, batch)
    undisturbed = run(settings(folder / "undisturbed", log), folder, "stream", "--until-idle", "3s")
    killed = settings(folder / "killed", log)
    run_and_kill(killed, folder, first + 5)
    run_and_kill(killed, folder, first + 9)
    survivor = run(killed, folder, "stream", "--until-idle", "3s")
    assert undisturbed["books"]["received"] == NUM_EVENTS
    assert undisturbed["books"]["applied"] == NUM_EVENTS
    assert survivor["books"] == undisturbed["books"]
    assert survivor["labels"] == undisturbed["labels"]
    assert any(key.startswith("transformer") and int(key.split(" v")[1]) > first for key in survivor["labels"]), survivor["labels"]
    assert survivor["digests"] == undisturbed["digests"]
