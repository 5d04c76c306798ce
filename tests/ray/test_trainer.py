"""The transformer's fit under Ray Train: what several workers make, and what is left of a fit whose worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.train import TrainingFailedError, get_all_reported_checkpoints, get_context

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.state import ComponentState, digest_of, to_bytes
from streamrec.storage import LocalStorage
from streamrec.teachers import trainer
from streamrec.teachers.batches import Sequences
from streamrec.teachers.requests import RefreshRequest
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_exports import exported_by_train, take_back
from streamrec.teachers.train_loop import train_transformer

NUM_ITEMS = 12
# Without dropout two workers' mean gradients are the mean over the whole batch.
TRANSFORMER = TransformerConfig(
    dim=8,
    num_layers=1,
    num_heads=1,
    sequence_length=6,
    batch_events=56,
    first_epochs=9,
    first_steps=12,
    dropout=0.0,
    learning_rate=1e-2,
    checkpoint_steps=4,
)


def window() -> Sequences:
    """Forty sequences that count on, some of them short."""
    rows = ((np.arange(40)[:, None] + np.arange(7)[None, :]) % NUM_ITEMS).astype(np.int32)
    rows[::3, 4:] = -1
    return Sequences(rows, rows >= 0, np.zeros(len(rows), np.int64), 40)


def fit(folder: Path, config: TransformerConfig, num_workers: int) -> ComponentState:
    """Fit by Ray Train and return the version."""
    payload = window().state()
    payload = ComponentState({**payload.arrays, "generation": np.zeros(NUM_ITEMS, np.int32)}, {**payload.meta, "num_items": NUM_ITEMS})
    LocalStorage(folder).write_new("window", to_bytes(payload))
    request = RefreshRequest("transformer", "v00000007", None, 3, NUM_ITEMS, payload)
    facts = {name: value for name, value in asdict(request).items() if name != "payload"}
    teachers = TeachersConfig(transformer=config, num_train_workers=num_workers, cpus_per_worker=0.5)
    trainer.fit_transformer(facts, "window", teachers, str(folder))
    store = TeacherStore(LocalStorage(folder))
    assert store.facts("transformer", "v00000007")["num_workers"] == num_workers
    return store.load("transformer", "v00000007")


def alone(config: TransformerConfig) -> ComponentState:
    """Return what the plain loop makes of it."""
    return train_transformer(window(), np.zeros(NUM_ITEMS, np.int32), None, config, 3)[0]


def is_close(one: ComponentState, other: ComponentState) -> bool:
    assert one.arrays.keys() == other.arrays.keys()
    return all(np.allclose(_felt(name, one), _felt(name, other), atol=2e-4) for name in other.arrays)


def _felt(name: str, state: ComponentState) -> np.ndarray:
    """Return an array without the keys' bias: attention does not feel it, so its gradient is rounding alone, of which Adam makes whole steps."""
    array = state.arrays[name]
    return np.delete(array, slice(len(array) // 3, 2 * len(array) // 3)) if name.endswith("qkv.bias") else array


def dying(monkeypatch: pytest.MonkeyPatch, folder: Path, deaths: int) -> Path:
    """Let the last worker kill itself after its second checkpoint, so many times; return where each start notes the steps that it has."""

    def worker(config: dict[str, Any]) -> None:
        class Dying(trainer.RayCheckpoints):
            saved = 0

            def load(self) -> list[ComponentState]:
                parts = super().load()
                (folder / "starts").mkdir(exist_ok=True)
                steps = max((len(part.arrays.get("losses", ())) for part in parts), default=0)
                (folder / "starts" / f"{len(list((folder / 'starts').iterdir())):03d}-{get_context().get_world_rank()}-{steps}").touch()
                return parts

            def save(self, part: ComponentState | None) -> None:
                super().save(part)
                self.saved += 1
                context = get_context()
                died = len(list(folder.glob("died-*")))
                if self.saved == 2 and context.get_world_rank() == context.get_world_size() - 1 and died < deaths:
                    (folder / f"died-{died}").touch()
                    get_all_reported_checkpoints()  # Else it may be dead before anyone has heard of them.
                    os.kill(os.getpid(), signal.SIGKILL)

        vars(trainer)["RayCheckpoints"] = Dying  # In the worker's process.
        trainer.train_worker(config)

    monkeypatch.setattr(trainer, "train_worker", worker)
    return folder / "starts"


def steps_of(starts: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in sorted(starts.iterdir())]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_that_is_killed_ends_in_the_bits_of_the_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TRANSFORMER.model_copy(update={"dropout": 0.3, "full_softmax_items": 4, "num_negatives": 5})
    starts = dying(monkeypatch, tmp_path, deaths=1)
    assert digest_of(fit(tmp_path, config, 1)) == digest_of(alone(config))
    first, second = steps_of(starts)
    assert first == 0
    assert second in {4, 8}


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_the_version_that_one_trains_without_ray_and_leave_none_of_ray_trains_classes_in_the_gcs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[int] = []

    def noted() -> None:
        before.append(len(exported_by_train()))
        take_back()

    monkeypatch.setattr(trainer, "take_back", noted)
    together = fit(tmp_path, TRANSFORMER, 2)
    assert before[0] >= 5  # Else it looks in the wrong place.
    assert exported_by_train() == []
    assert is_close(together, alone(TRANSFORMER))
    assert not is_close(together, alone(TRANSFORMER.model_copy(update={"batch_events": 28}))), "what a worker that heard nobody would have"


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_goes_on_from_what_two_with_half_of_the_items_each_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TRANSFORMER.model_copy(update={"shard_items": True})

    @contextmanager
    def kept(version: str, storage_url: str) -> Iterator[Path]:
        """A killed job leaves the folder there."""
        (folder := Path(storage_url) / "run").mkdir(exist_ok=True)
        yield folder

    monkeypatch.setattr(trainer, "_run_folder", kept)
    monkeypatch.setattr(trainer, "MAX_FAILURES", 0)
    starts = dying(monkeypatch, tmp_path, deaths=1)
    with pytest.raises(TrainingFailedError):
        fit(tmp_path, config, 2)
    shutil.rmtree(starts)
    assert is_close(fit(tmp_path, config, 1), alone(config))
    (steps,) = steps_of(starts)
    assert steps in {4, 8}
