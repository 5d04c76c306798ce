"""The command `python -m serve` on a cluster that is there: a signal ends it at any time without leaving anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("moment", ["broker: ", "Connected to Ray cluster"])
def test_a_server_that_is_stopped_while_it_starts_ends_well_and_leaves_nothing_on_the_cluster(tmp_path: Path, moment: str) -> None:
    words = [sys.executable, "-m", "serve", "--set", "log.broker=local", "--set", f"state={tmp_path / 'state'}", "--set", "serving.port=0"]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    before = ray.util.list_named_actors(all_namespaces=True)
    server = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        told = next((line for line in server.stderr if moment in line), "")
        assert told
        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=90)
    finally:
        server.kill()
        server.communicate()
    assert (server.returncode, output) == (0, ""), errors
    assert "SIGTERM received" not in errors
    assert errors.rstrip().endswith("stopped by a signal during the start")
    assert ray.util.list_named_actors(all_namespaces=True) == before
