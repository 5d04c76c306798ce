"""`make bench` finds the packages that benchmarks use, though one of them is called as a benchmark is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["serve", "swap"])
def test_make_bench_starts_a_benchmark_that_serves(name: str) -> None:
    done = subprocess.run(
        ["make", "-s", "bench", f"BENCHMARKS={name}", "BENCH_ARGS=--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == name
    assert "usage: " in done.stdout
