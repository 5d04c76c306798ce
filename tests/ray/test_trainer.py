"""Where actors and train workers run, and the transformer's fit under Ray Train: what comes of one that loses a worker or a node."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.train import get_context

from streamrec.config import TeachersConfig, TransformerConfig
from streamrec.pipeline.ray_workers import RayWorker, leave
from streamrec.state import ComponentState, digest_of, to_bytes
from streamrec.storage import LocalStorage
from streamrec.student.actor import host
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


def fit(folder: Path, teachers: TeachersConfig) -> ComponentState:
    """Fit by Ray Train and return the version."""
    payload = window().state()
    payload = ComponentState({**payload.arrays, "generation": np.zeros(NUM_ITEMS, np.int32)}, {**payload.meta, "num_items": NUM_ITEMS})
    LocalStorage(folder).write_new("window", to_bytes(payload))
    request = RefreshRequest("transformer", "v00000007", None, 3, NUM_ITEMS, payload)
    facts = {name: value for name, value in asdict(request).items() if name != "payload"}
    trainer.fit_transformer(facts, "window", teachers, str(folder))
    return TeacherStore(LocalStorage(folder)).load("transformer", "v00000007")


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


@dataclass(frozen=True)
class Start:
    """A worker that began: among how many, after so many steps, on which node."""

    world: int
    steps: int
    node: str


def dying(monkeypatch: pytest.MonkeyPatch, folder: Path, *, with_its_node: bool = False) -> Callable[[], list[Start]]:
    """Let the last worker kill itself once after its second checkpoint, or its whole node; return who tells of the workers that began, in order."""

    def worker(config: dict[str, Any]) -> None:
        class Dying(trainer.StoredCheckpoints):
            saved = 0

            def load(self) -> list[ComponentState]:
                parts, context = super().load(), get_context()
                steps = max((len(part.arrays.get("losses", ())) for part in parts), default=0)
                begun = (context.get_world_size(), steps, ray.get_runtime_context().get_node_id())
                (folder / f"began-{time.time_ns()}-{context.get_world_rank()}").write_text(json.dumps(begun))
                return parts

            def save(self, part: ComponentState | None) -> None:
                super().save(part)
                self.saved += 1
                context = get_context()
                if self.saved == 2 and context.get_world_rank() == context.get_world_size() - 1 and not (folder / "died").exists():
                    (folder / "died").touch()
                    if with_its_node:
                        os.kill(os.getppid(), signal.SIGTERM)  # Its raylet: what a machine that is taken away is told.
                    os.kill(os.getpid(), signal.SIGKILL)

        vars(trainer)["StoredCheckpoints"] = Dying  # In the worker's process.
        trainer.train_worker(config)

    monkeypatch.setattr(trainer, "train_worker", worker)
    return lambda: [Start(*json.loads(path.read_text())) for path in sorted(folder.glob("began-*"))]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # A process more for each group of workers, which would hear nothing here.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spot_nodes(ray_cluster: None) -> Iterator[set[str]]:
    """Add two nodes of one CPU that offer ``spot`` to the cluster; their ids."""
    free, before = trainer.available_resources_per_node, set(trainer.available_resources_per_node())
    params = ray._private.parameter.RayParams(
        gcs_address=ray.get_runtime_context().gcs_address,
        num_cpus=1,
        resources={"spot": 1},
        object_store_memory=80 * 2**20,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=None,
        include_log_monitor=False,
    )
    nodes = [ray._private.node.Node(copy(params), head=False, shutdown_at_exit=False, spawn_reaper=False) for _ in range(2)]
    while len(added := set(free()) - before) < len(nodes):
        pass
    yield added
    for node in nodes:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def node_of(_: object) -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def test_an_actor_runs_where_there_is_what_it_takes_and_is_made_anew_there_when_that_changes(spot_nodes: set[str]) -> None:
    worker: RayWorker[dict[str, int]] = RayWorker(host("placed", 0.1, resources={"node:__internal_head__": 0.001}), 1, dict)
    assert worker.submit(node_of).result() not in spot_nodes
    moved: RayWorker[dict[str, int]] = RayWorker(host("placed", 0.1, resources={"spot": 0.01}), 2, dict)
    assert moved.submit(node_of).result() in spot_nodes
    leave([moved])


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_that_is_killed_ends_in_the_bits_of_the_plain_loop_and_leaves_none_of_ray_trains_classes_in_the_gcs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[int] = []

    def noted() -> None:
        before.append(len(exported_by_train()))
        take_back()

    monkeypatch.setattr(trainer, "take_back", noted)
    config = TRANSFORMER.model_copy(update={"dropout": 0.3, "full_softmax_items": 4, "num_negatives": 5})
    begun = dying(monkeypatch, tmp_path)
    assert digest_of(fit(tmp_path, TeachersConfig(transformer=config))) == digest_of(alone(config))
    assert [(start.world, start.steps) for start in begun()] == [(1, 0), (1, 8)]
    assert before[0] >= 5  # Else it looks in the wrong place.
    assert exported_by_train() == []


@pytest.mark.slow
@pytest.mark.release
def test_two_workers_with_half_of_the_items_each_lose_a_node_and_one_goes_on_to_the_version_that_one_trains_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spot_nodes: set[str]
) -> None:
    config = TRANSFORMER.model_copy(update={"shard_items": True})
    begun = dying(monkeypatch, tmp_path, with_its_node=True)
    one_a_node = {"cpus_per_worker": 0.9, "worker_resources": {"spot": 0.5}}
    teachers = TeachersConfig(transformer=config, num_train_workers=2, min_train_workers=1, **one_a_node)
    made = fit(tmp_path, teachers)
    assert [(start.world, start.steps) for start in begun()] == [(2, 0), (2, 0), (1, 8)]
    assert {start.node for start in begun()} == spot_nodes
    assert TeacherStore(LocalStorage(tmp_path)).facts("transformer", "v00000007")["num_workers"] == 1
    assert is_close(made, alone(config))
    assert not is_close(made, alone(config.model_copy(update={"batch_events": 28}))), "what workers that heard nobody would have"
