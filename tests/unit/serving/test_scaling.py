"""How many replicas there should be."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingPolicy

from serve.scaling import BUSY, Busyness, BusyPolicy


def context(shares: list[float], current: int, target: int | None = None) -> SimpleNamespace:
    """What Serve tells a policy."""
    metrics = {BUSY: dict(enumerate(shares))} if shares else {}
    return SimpleNamespace(aggregated_metrics=metrics, current_num_replicas=current, target_num_replicas=current if target is None else target)


@pytest.mark.parametrize(
    ("shares", "current", "wanted"), [([0.6, 0.6], 2, 2.0), ([0.9, 0.9], 2, 3.0), ([0.1, 0.2], 4, 1.0), ([0.9], 3, 4.5), ([], 3, 3.0)]
)
def test_so_many_are_wanted_that_each_is_as_busy_as_told(shares: list[float], current: int, wanted: float) -> None:
    number, state = BusyPolicy(0.6)(context(shares, current))
    assert number == pytest.approx(wanted)
    assert state == {}


def test_without_a_report_what_was_decided_stays() -> None:
    assert BusyPolicy(0.6)(SimpleNamespace(aggregated_metrics=None, current_num_replicas=2, target_num_replicas=4))[0] == 4


def test_a_process_without_this_package_can_run_the_policy() -> None:
    make: Any = AutoscalingPolicy
    policy = make(policy_function="serve.scaling:BusyPolicy", policy_kwargs={"busy_share": 0.6})
    code = "import sys; sys.modules['serve'] = None; from types import SimpleNamespace; from ray import cloudpickle; "
    code += "kind = cloudpickle.loads(sys.stdin.buffer.read()); context = SimpleNamespace("
    code += "aggregated_metrics={'busy': {1: 0.9}}, current_num_replicas=2, target_num_replicas=2); print(kind(busy_share=0.6)(context)[0])"
    found = subprocess.run([sys.executable, "-c", code], input=policy.get_serialized_policy_def(), capture_output=True, check=True)
    assert float(found.stdout) == pytest.approx(3.0)


def test_busyness_is_the_share_of_the_time_since_it_was_asked_last() -> None:
    times, work = iter([10.0, 12.0, 12.0, 16.0]), iter([1.0, 2.0, 2.0, 8.0])
    busyness = Busyness(lambda: next(times), lambda: next(work))
    assert [busyness.share() for _ in range(4)] == [0.0, 0.5, 0.0, 1.0]
