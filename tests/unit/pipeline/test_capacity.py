from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamrec
from streamrec.config import parse_config
from streamrec.pipeline import capacity
from streamrec.pipeline.capacity import Estimate, Machine, Workload, estimate
from streamrec.pipeline.measured import MEASURED

CHECKOUT = Path(streamrec.__file__).parents[1]
SMALL = Workload(users=4_000, items=1_500, events_per_s=2_000)
MACHINE = Machine(cores=2, memory_bytes=24e9)


def of(load: Workload, machine: Machine = MACHINE, **settings: dict[str, Any]) -> Estimate:
    return estimate(parse_config(settings), load, machine)


def part(found: Estimate, name: str) -> float:
    return next(part.bytes for part in (*found.memory, *found.disk) if part.name == name)


def test_the_soaks_world_takes_what_the_soak_took() -> None:
    """6.7 to 7.5 GB in all (docs/experiments.md), its linear teacher bounded as there."""
    assert 6.7e9 <= of(SMALL, teachers={"linear": {"max_items": 1024}}).memory_bytes <= 7.6e9


def test_a_million_histories_and_items_take_what_was_measured() -> None:
    """825 bytes a user of 50 entries, 884 bytes an item of 64 dimensions, 1,090 MB a replica that builds a million items (docs/experiments.md)."""
    small, large = of(replace(SMALL, users=0)), of(replace(SMALL, users=1_000_000))
    assert part(large, "driver") - part(small, "driver") == pytest.approx(825e6)
    fewer, more = of(replace(SMALL, users=0, items=1)), of(replace(SMALL, users=0, items=1_000_001))
    assert part(more, "checkpoint") - part(fewer, "checkpoint") == pytest.approx(2 * 2 * 884e6, rel=1e-3)
    assert (part(more, "2 replicas") - part(fewer, "2 replicas")) / 2 == pytest.approx(1_090e6, rel=1e-3)
    assert more.object_store_bytes == pytest.approx(2.5 * 291e6, rel=1e-3)


def test_histories_in_redis_are_in_no_replica() -> None:
    """850 bytes a user of 50 entries (docs/operations.md)."""
    load, redis = replace(SMALL, users=1_000_000), {"serving": {"histories": "redis", "history_users": 1_000_000}}
    memory = {"serving": {"history_users": 1_000_000}}
    assert part(of(load, **redis), "Redis") == pytest.approx(860e6)
    assert part(of(load, **redis), "2 replicas") == part(of(replace(load, users=0), **memory), "2 replicas")
    assert "Redis" not in {part.name for part in of(load, **memory).memory}


@pytest.mark.parametrize(
    ("load", "settings", "name", "grows"),
    [
        ({"users": 500_000}, {}, "driver", True),
        ({"items": 200_000}, {}, "student", True),
        ({"items": 3_000}, {}, "statistics", True),
        ({"items": 200_000}, {}, "refresh", True),
        ({"events_per_s": 4_000.0}, {}, "lake, a day", True),
        ({"retention_s": 30 * 86_400.0}, {}, "log", True),
        ({}, {"student": {"dim": 128}}, "student", True),
        ({}, {"features": {"history_length": 100}}, "driver", True),
        ({}, {"features": {"max_users": 10}}, "driver", False),
        ({}, {"student": {"replay_capacity": 10}}, "driver", False),
        ({}, {"lake": {"enabled": False}}, "lake, a day", False),
        ({}, {"teachers": {"transformer": {"dim": 256}}}, "scorer", True),
    ],
)
def test_what_is_asked_and_what_is_set_change_what_it_takes(load: dict[str, Any], settings: dict[str, Any], name: str, *, grows: bool) -> None:
    before, after = part(of(SMALL), name), part(of(replace(SMALL, **load), **settings), name)
    assert after > before if grows else after < before


def test_what_is_not_enabled_takes_nothing() -> None:
    names = {part.name for part in of(SMALL, teachers={"enabled": []}, student={"control": False}, log={"broker": "kafka:9092"}).memory}
    assert not names & {"scorer", "statistics", "refresh", "control", "broker"}
    further = of(SMALL, students={"edge": {"dim": 8}})
    assert part(further, "student edge") < part(further, "student")


def test_replicas_follow_the_requests_and_the_items() -> None:
    assert of(SMALL).replicas == 2
    many = of(replace(SMALL, requests_per_s=10_000))
    assert many.replicas == 10  # Two cores answered 2,918 a second; seven tenths of a core are to be used.
    assert of(replace(SMALL, requests_per_s=10_000, items=1_000_000)).replicas > many.replicas


def test_refreshes_follow_the_events_and_end_at_their_budget() -> None:
    few, many = of(replace(SMALL, events_per_s=20)), of(SMALL)
    assert many.refreshes_per_day == pytest.approx(100 * few.refreshes_per_day)
    assert few.worker_minutes_per_day < many.worker_minutes_per_day == 1440
    assert any("teachers.budget_worker_min_per_day ends them at 1440" in line for line in many.ends)
    assert of(SMALL, teachers={"enabled": ["repeats"]}).worker_minutes_per_day == 0


def test_gpu_hours_are_those_of_train_workers_within_the_budget_and_none_without_gpus() -> None:
    slow = {"transformer_refresh_events": 10**8, "num_train_workers": 2}
    assert of(SMALL, teachers=slow).gpu_hours_per_day is None
    without_linear = of(SMALL, teachers={**slow, "use_gpu": True, "enabled": ["transformer"]})
    assert without_linear.gpu_hours_per_day == pytest.approx(without_linear.worker_minutes_per_day / 60)
    assert 0 < without_linear.gpu_hours_per_day < 24
    with_linear = of(SMALL, teachers={**slow, "use_gpu": True, "enabled": ["transformer", "linear"]})
    assert with_linear.gpu_hours_per_day == without_linear.gpu_hours_per_day
    shared = of(SMALL, teachers={"use_gpu": True, "num_train_workers": 1, "gpus_per_worker": 0.5})
    assert shared.gpu_hours_per_day == pytest.approx(12.0)  # The budget's 1,440 minutes.


def test_what_processes_ask_of_nodes_is_said() -> None:
    assert of(SMALL).places == ()
    placed = of(SMALL, placement={"learners": {"resources": {"big": 0.5}}}, teachers={"use_gpu": True})
    assert any("× student on nodes that have it: " in line and "big 0.5" in line for line in placed.places)
    assert any("× train worker on nodes that have it: " in line and "GPU 1" in line for line in placed.places)


@pytest.mark.parametrize(
    ("load", "machine", "said"),
    [
        ({"items": 900_000}, Machine(8, 10e9), "memory: "),
        ({"events_per_s": 5_000}, Machine(2, 64e9), "cores: 1.6 are needed, 70% of the machine's 2"),
        ({"events_per_s": 7_000}, Machine(64, 500e9), "events: one stream took 6130 a second at the most"),
        ({"items": 2_000_000}, Machine(64, 500e9), "items: features.max_items is 1000000"),
    ],
)
def test_what_one_machine_can_not_do_is_said(load: dict[str, Any], machine: Machine, said: str) -> None:
    assert any(line.startswith(said) for line in of(replace(SMALL, **load), machine).ends)
    assert not any(line.startswith(said) for line in of(replace(SMALL, events_per_s=20), Machine(64, 500e9)).ends)


def test_a_machine_ends_where_the_next_item_does_not_fit() -> None:
    found = of(SMALL, Machine(2, 10e9)).ends[-1]
    told = re.search(r"ends at (\d+) items", found)
    assert told is not None, found
    items = int(told.group(1))
    fits, misses = (of(replace(SMALL, items=num), Machine(2, 10e9)).ends for num in (items, items + 1))
    assert (any(line.startswith("memory") for line in fits), any(line.startswith("memory") for line in misses)) == (False, True)


def test_a_machine_that_holds_no_process_ends_nowhere() -> None:
    said = of(SMALL, Machine(2, 0.1e9)).ends[-1]
    assert re.fullmatch(r"one machine of 2 cores and .* is too small for any items and users: the processes alone take \S+ \S+", said), said


def test_each_figure_is_used_and_says_where_it_is_written_down() -> None:
    source = Path(capacity.__file__).read_text()
    assert set(re.findall(r'measured\("(\w+)"\)', source)) == set(MEASURED)
    for name, constant in MEASURED.items():
        assert constant.value > 0, name
        file = constant.source.split(",")[0]
        assert file.startswith("Ray Train") or (CHECKOUT / file).is_file(), constant.source
