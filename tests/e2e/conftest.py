"""Run jobs as processes of their own, on a log of files, below a short path."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streamrec.config import Config, parse_config
from streamrec.events.codec import encode_table
from streamrec.events.synthetic import synthetic_dataset
from streamrec.log.base import Record
from streamrec.log.connect import local_address, open_admin, open_writer

ROOT = Path(__file__).resolve().parents[2]
NUM_EVENTS = 5500


@dataclass
class Jobs:
    """Run jobs on states below ``folder``, all on one log; ``changes`` are settings besides those of `config`, by section."""

    folder: Path
    root: Path = ROOT
    num_events: int = NUM_EVENTS
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config(self, state: str) -> Config:
        settings: dict[str, Any] = {
            "state": str(self.folder / state),
            "log": {"broker": f"local://{self.folder / 'log'}"},
            "features": {"lateness_s": "10000d", "history_length": 10},
            "student": {"dim": 16, "batch_size": 64},
            "teachers": {
                "transformer": {"dim": 16, "first_steps": 5, "refresh_steps": 3, "sequence_length": 8},
                "transformer_refresh_events": 1200,
                "linear_refresh_events": 700,
            },
            "pipeline": {"max_batch_events": 250, "checkpoint_interval_s": "1000s"},
        }
        return parse_config({**settings, **{section: {**settings.get(section, {}), **changed} for section, changed in self.changes.items()}})

    def append(self, start: int, end: int) -> None:
        config = self.config("log-only")
        events = synthetic_dataset(num_users=80, num_items=150, num_events=NUM_EVENTS).events
        keys, values = encode_table(events.slice(start, end - start))
        address = local_address(self.folder / "log")
        open_admin(address, config.log).ensure_topic(config.log.events_topic, config.log.num_partitions)
        open_writer(address, config.log).append(config.log.events_topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])

    def names(self) -> set[str]:
        """Return what lies in the folder, without the cache that torch keeps for each user in the temporary folder."""
        return {path.name for path in self.folder.iterdir() if not path.name.startswith("torchinductor_")}

    def command(self, state: str, job: str, *options: str) -> list[str]:
        path = self.folder / f"{state}.yaml"
        path.write_text(self.config(state).model_dump_json(), encoding="utf-8")
        return [sys.executable, "-m", f"jobs.{job}", "--config", str(path), *options]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}

    def run(self, state: str, job: str, *options: str) -> dict[str, Any]:
        """Run a job to its end and return the JSON object that it ends with."""
        words = self.command(state, job, *options)
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def signalled(self, number: int, batch: int, state: str, job: str, *options: str) -> tuple[int, str, str]:
        """Run a job, send it a signal as soon as it reports ``batch`` or a later one, and return exit status, output and error output."""
        words = self.command(state, job, *options)
        process = subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        seen, is_sent = "", False
        for line in process.stderr:
            seen += line
            found = re.match(r"batch (\d+),", line)
            if found and int(found.group(1)) >= batch and not is_sent:  # Batches without records are not reported.
                process.send_signal(number)
                is_sent = True
        output = process.stdout.read()
        process.stdout.close()
        process.stderr.close()
        assert is_sent, seen[-2000:]
        return process.wait(), output, seen


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """A short path: Ray's sockets live below it."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    yield Jobs(path)
    shutil.rmtree(path, ignore_errors=True)
