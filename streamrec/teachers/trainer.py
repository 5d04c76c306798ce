"""Run the transformer's training loop under Ray Train: one fit per refresh, any number of workers, GPUs when there are any."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    get_checkpoint,
    get_context,
    report,
)
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from streamrec.config import TeachersConfig
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage import open_storage
from streamrec.storage.local import LocalStorage
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.train_exports import take_back
from streamrec.teachers.training import Place

MAX_FAILURES = 3
"""A worker that dies is replaced so often; what fails more often than that fails by itself."""


class RayCheckpoints:
    """Keep a training's state in the run's folder; Ray Train gives it to the workers that replace the dead ones."""

    def load(self) -> list[ComponentState]:
        """Return the parts of the newest checkpoint that is whole."""
        checkpoint = get_checkpoint()
        if checkpoint is None:
            return []
        with checkpoint.as_directory() as folder:
            return [from_bytes(path.read_bytes()) for path in sorted(Path(folder).glob("part-*.safetensors"))]

    def save(self, part: ComponentState | None) -> None:
        """Report the state; Ray puts all workers' files into one folder, and waits for all workers."""
        if part is None:
            report({})
            return
        with tempfile.TemporaryDirectory(prefix="streamrec-part-") as folder:
            Path(folder, f"part-{get_context().get_world_rank():05d}.safetensors").write_bytes(to_bytes(part))
            report({}, checkpoint=Checkpoint.from_directory(folder))


def train_worker(config: dict[str, Any]) -> None:
    """Train as one Ray Train worker; the payload is read from storage, so that a restarted worker finds it.

    Args:
        config: ``request`` (without payload), ``payload_key``, ``teachers`` (settings) and ``storage_url``.
    """
    torch.set_num_threads(1)
    give_way()
    storage = open_storage(config["storage_url"])
    payload = from_bytes(storage.read(config["payload_key"]))
    checkpoints = RayCheckpoints() if isinstance(storage, LocalStorage) else None  # Else the run's folder is one machine's.
    context = get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), get_device(), _distribute, checkpoints)
    carry_out(RefreshRequest(**config["request"], payload=payload), TeachersConfig.model_validate(config["teachers"]), config["storage_url"], place)


def give_way() -> None:
    """Lower this process's priority: where training shares a machine with the stream and serving, these go first."""
    os.nice(10)


def _distribute(module: nn.Module) -> nn.Module:
    prepared: nn.Module = prepare_model(module)
    return prepared


def fit_transformer(request: dict[str, Any], payload_key: str, teachers: TeachersConfig, storage_url: str) -> None:
    """Fit one transformer version with Ray Train and wait for it.

    The run's name is the version's, so that it is unique per refresh. A worker that dies is replaced and all go on from their newest checkpoint; so
    does the fit of the same version after a job was killed, whatever number of workers it has then. The folder goes afterwards, because the version
    itself goes to ``storage_url``. One fit of a job runs at a time.

    Raises:
        ray.train.TrainingFailedError: The workers failed.
    """
    name = f"{request['teacher']}-{request['version']}"
    with _run_folder(f"{request['teacher']}/{request['version']}", storage_url) as folder:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "request": request,
                "payload_key": payload_key,
                "teachers": teachers.model_dump(mode="json"),
                "storage_url": storage_url,
            },
            scaling_config=ScalingConfig(
                num_workers=teachers.num_train_workers,
                use_gpu=teachers.use_gpu,
                resources_per_worker={"CPU": teachers.cpus_per_worker} | ({"GPU": 1} if teachers.use_gpu else {}),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(folder.resolve()),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        was_begun = (folder / name).exists()
        try:
            trainer.fit()
        except TrainingFailedError:
            if not was_begun:
                raise
            shutil.rmtree(folder / name)  # A killed job may have left a torn record there.
            trainer.fit()
        finally:
            take_back()


@contextmanager
def _run_folder(version: str, storage_url: str) -> Iterator[Path]:
    """Give Ray Train a folder: where the state is files, beside the version, so that a killed job leaves nothing outside its state.

    What a killed job's fit of this version left there is gone on with.
    """
    storage = open_storage(storage_url)
    if not isinstance(storage, LocalStorage):
        with tempfile.TemporaryDirectory(prefix="streamrec-train-") as temporary:
            yield Path(temporary)
        return
    folder = Path(storage.address) / "teachers" / version / "run"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


fit_transformer_task = ray.remote(num_cpus=0, max_retries=0)(fit_transformer)
