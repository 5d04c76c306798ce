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
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from streamrec.config import TeachersConfig
from streamrec.state import from_bytes
from streamrec.storage import open_storage
from streamrec.storage.local import LocalStorage
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.training import Place


def train_worker(config: dict[str, Any]) -> None:
    """Train as one Ray Train worker; the payload is read from storage, so that a restarted worker finds it.

    Args:
        config: ``request`` (without payload), ``payload_key``, ``teachers`` (settings) and ``storage_url``.
    """
    torch.set_num_threads(1)
    give_way()
    payload = from_bytes(open_storage(config["storage_url"]).read(config["payload_key"]))
    context = get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), get_device(), _distribute)
    carry_out(RefreshRequest(**config["request"], payload=payload), TeachersConfig.model_validate(config["teachers"]), config["storage_url"], place)


def give_way() -> None:
    """Lower this process's priority: where training shares a machine with the stream and serving, these go first."""
    os.nice(10)


def _distribute(module: nn.Module) -> nn.Module:
    prepared: nn.Module = prepare_model(module)
    return prepared


def fit_transformer(request: dict[str, Any], payload_key: str, teachers: TeachersConfig, storage_url: str) -> None:
    """Fit one transformer version with Ray Train and wait for it.

    The run's name is the version's, so that it is unique per refresh; its folder goes afterwards, because the version itself goes to
    ``storage_url``.

    Raises:
        ray.train.TrainingFailedError: The workers failed.
    """
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
            run_config=RunConfig(name=f"{request['teacher']}-{request['version']}", storage_path=str(folder.resolve())),
        )
        trainer.fit()


@contextmanager
def _run_folder(version: str, storage_url: str) -> Iterator[Path]:
    """Give Ray Train a folder: where the state is files, beside the version, so that a killed job leaves nothing outside its state."""
    storage = open_storage(storage_url)
    if not isinstance(storage, LocalStorage):
        with tempfile.TemporaryDirectory(prefix="streamrec-train-") as temporary:
            yield Path(temporary)
        return
    folder = Path(storage.address) / "teachers" / version / "run"
    shutil.rmtree(folder, ignore_errors=True)  # What a killed job left; Ray Train would go on with it.
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


fit_transformer_task = ray.remote(num_cpus=0, max_retries=0)(fit_transformer)
