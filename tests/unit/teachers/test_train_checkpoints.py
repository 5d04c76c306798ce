from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.teachers import train_checkpoints
from streamrec.teachers.train_checkpoints import StoredCheckpoints, newest, remove

RUN = "teachers/transformer/v1/run"


Start = Callable[[int], list[StoredCheckpoints]]


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start so many workers, who hear what rank 0 says as they load; they are called one after the other, rank 0 last where it waits for others."""
    said: list[Any] = []

    def start(num: int) -> list[StoredCheckpoints]:
        made = []
        for rank in range(num):
            monkeypatch.setattr(train_checkpoints, "get_context", lambda rank=rank: SimpleNamespace(get_world_rank=lambda: rank))
            made.append(StoredCheckpoints(LocalStorage(tmp_path), RUN))
        return made

    def broadcast(data: Any) -> Any:
        said[:] = [data] if data else said
        return said[0]

    monkeypatch.setattr(train_checkpoints, "broadcast_from_rank_zero", broadcast)
    monkeypatch.setattr(train_checkpoints, "barrier", lambda: None)
    return start


def part(number: int) -> ComponentState:
    return ComponentState({"rows": np.array([number])}, {"first": number})


def numbers(parts: list[ComponentState]) -> list[int]:
    return [int(part.arrays["rows"][0]) for part in parts]


def test_any_number_of_workers_goes_on_from_the_newest_checkpoint_that_is_whole(group: Start, tmp_path: Path) -> None:
    two = group(2)
    assert [worker.load() for worker in two] == [[], []]
    for step in (1, 2):
        two[1].save(part(10 * step + 1))
        two[0].save(part(10 * step))
    two[1].save(part(31))  # The other one dies before.
    (one,) = group(1)
    assert numbers(one.load()) == [20, 21]
    one.save(part(40))
    three = group(3)
    assert [numbers(worker.load()) for worker in three] == [[40]] * 3
    kept = LocalStorage(tmp_path).list(RUN)
    assert [key.split("/")[-1] for key in kept if newest(LocalStorage(tmp_path), RUN) in key] == ["part-00000.safetensors", "whole"]
    assert {key.split("/")[-2].partition("-")[0] for key in kept} == {"000003"}, "the ones before are gone"
    remove(LocalStorage(tmp_path), RUN)
    assert LocalStorage(tmp_path).list() == []


def test_a_worker_without_a_part_of_its_own_writes_none(group: Start, tmp_path: Path) -> None:
    two = group(2)
    for worker in two:
        worker.load()
    two[1].save(None)
    two[0].save(part(1))
    assert [key.split("/")[-1] for key in LocalStorage(tmp_path).list(RUN)] == ["part-00000.safetensors", "whole"]
