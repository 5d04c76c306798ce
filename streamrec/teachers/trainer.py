"""Run the transformer's training loop under Ray Train: one fit per refresh, any number of workers, GPUs when there are any."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import ray
import torch
from ray._private import worker as ray_worker  # noqa: PLC2701 - no public function names the session's folder
from ray._private.state import available_resources_per_node  # noqa: PLC2701 - the amounts by node; public is their sum alone
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2._internal.exceptions import (  # noqa: PLC2701 - a fit fails by these where its workers find no place, and says so by no public name
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from torch import nn

from streamrec.config import TeachersConfig
from streamrec.errors import OperatorError
from streamrec.room import fewest_workers, of_one_worker, room_for
from streamrec.state import from_bytes
from streamrec.storage import open_storage
from streamrec.teachers.background import give_way
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.train_checkpoints import StoredCheckpoints, remove
from streamrec.teachers.train_exports import take_back
from streamrec.teachers.training import Place

MAX_FAILURES = 3
"""A worker that dies is replaced so often; what fails more often than that fails by itself."""

_NO_CUDA = "no GPUs found"
"""What torch says where a GPU's collectives are asked for and it has none; Ray gives out GPUs by number and does not look."""

logger = logging.getLogger(__name__)


def train_worker(config: dict[str, Any]) -> None:
    """Train as one Ray Train worker; the payload is read from storage, so that a restarted worker finds it.

    Args:
        config: ``request`` (without payload), ``payload_key``, ``teachers`` (settings), ``storage_url`` and ``checkpoints``, where they are on it.
    """
    torch.set_num_threads(1)
    give_way()
    storage = open_storage(config["storage_url"])
    payload = from_bytes(storage.read(config["payload_key"]))
    context = get_context()
    checkpoints = StoredCheckpoints(storage, config["checkpoints"])
    place = Place(context.get_world_rank(), context.get_world_size(), get_device(), _distribute, checkpoints)
    carry_out(RefreshRequest(**config["request"], payload=payload), TeachersConfig.model_validate(config["teachers"]), config["storage_url"], place)


def _distribute(module: nn.Module) -> nn.Module:
    prepared: nn.Module = prepare_model(module)
    return prepared


def fit_transformer(request: dict[str, Any], payload_key: str, teachers: TeachersConfig, storage_url: str) -> None:
    """Fit one transformer version with Ray Train and wait for it.

    A worker that dies is replaced and all go on from their newest checkpoint; so does the fit of the same version after a job was killed, whatever
    number of workers it has then. Where there is no place for as many any more, as after a node was lost, and ``teachers.min_train_workers`` allows
    fewer, fewer go on. The checkpoints go afterwards. One fit of a job runs at a time.

    Raises:
        ray.train.TrainingFailedError: The workers failed.
        OperatorError: Ray gave a worker a GPU that torch does not find.
    """
    storage, checkpoints = open_storage(storage_url), f"teachers/{request['teacher']}/{request['version']}/run"
    told = {"request": request, "payload_key": payload_key, "teachers": teachers.model_dump(mode="json"), "storage_url": storage_url}
    lost = 0
    try:
        while True:
            num_workers = workers_now(teachers)
            try:
                _fit(f"{request['teacher']}-{request['version']}", {**told, "checkpoints": checkpoints}, teachers, num_workers)
                break
            except TrainingFailedError as error:
                cause = error.controller_failure if isinstance(error, ControllerError) else None
                lost += isinstance(cause, WorkerGroupStartupFailedError)
                if lost > MAX_FAILURES or not isinstance(cause, WorkerGroupStartupTimeoutError | WorkerGroupStartupFailedError):
                    _check_cuda(error)
                    raise
                logger.warning(
                    "Trainer: %d train workers found no place, looking for what there is, %d at least", num_workers, fewest_workers(teachers)
                )
    finally:
        remove(storage, checkpoints)


def _fit(name: str, told: dict[str, Any], teachers: TeachersConfig, num_workers: int) -> None:
    """Let so many workers train, and wait for them; Ray Train's own folder has nothing that anybody needs."""
    node = ray_worker._global_node
    # In the cluster's own folder it goes with the cluster, also where this process is killed.
    with tempfile.TemporaryDirectory(prefix="streamrec-train-", dir=node.get_session_dir_path() if node is not None else None) as folder:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=told,
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=teachers.use_gpu, resources_per_worker=of_one_worker(teachers)),
            run_config=RunConfig(name=name, storage_path=folder, failure_config=_failures(teachers)),
        )
        try:
            trainer.fit()
        finally:
            take_back()


def _failures(teachers: TeachersConfig) -> FailureConfig:
    """Return how often workers may die, and how often all of them may find no place: by itself Ray Train waits for ever for as many as before."""
    limit = 0 if _is_elastic(teachers) else -1
    return FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=limit)  # type: ignore[call-arg] # Ray's types are those of its v1


def _is_elastic(teachers: TeachersConfig) -> bool:
    return fewest_workers(teachers) < teachers.num_train_workers


def workers_now(teachers: TeachersConfig) -> int:
    """Return how many workers a fit is to have: all, or as many as the nodes have room for now where fewer are allowed.

    Ray Train's own elastic scaling counts what nodes were started with, not what the actors there have left.
    """
    if not _is_elastic(teachers):
        return teachers.num_train_workers
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return max(fewest_workers(teachers), min(teachers.num_train_workers, room_for(of_one_worker(teachers), list(free.values()))))


def _check_cuda(error: TrainingFailedError) -> None:
    """Raise in our words where a fit failed because a worker's GPU is none for torch."""
    if _NO_CUDA not in str(error):
        return
    what = "Trainer: Ray gave a train worker a GPU, and its torch finds none"
    do = "install a torch with CUDA on the nodes that offer GPUs, start the others with --num-gpus=0, or set teachers.use_gpu = false"
    raise OperatorError(what, do=do) from error


fit_transformer_task = ray.remote(num_cpus=0, max_retries=0)(fit_transformer)
