from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train import ControllerError, TrainingFailedError

from streamrec.config import TeachersConfig
from streamrec.errors import OperatorError
from streamrec.storage import LocalStorage
from streamrec.teachers import trainer

REQUEST = {"teacher": "transformer", "version": "v00000007"}
RUN = "teachers/transformer/v00000007/run"
LEFT = f"{RUN}/000002-0123456789ab/part-00000.safetensors"
TWO = TeachersConfig(num_train_workers=2, min_train_workers=1)
NO_PLACE = ControllerError(trainer.WorkerGroupStartupTimeoutError(2))


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for Ray Train that ends as it is told, fit by fit; notes of each the workers, its patience and the checkpoints that were there."""
    ends: list[BaseException | None] = []
    begun: list[tuple[int, int, list[str]]] = []

    class Fit:
        def __init__(self, *_: Any, scaling_config: Any, run_config: Any, **__: Any) -> None:
            begun.append((scaling_config.num_workers, run_config.failure_config.controller_failure_limit, list(LocalStorage(tmp_path).list(RUN))))

        def fit(self) -> None:
            if (error := ends.pop(0)) is not None:
                raise error

    def run(teachers: TeachersConfig, *how: BaseException | None, free: tuple[dict[str, float], ...] = ()) -> list[tuple[int, int, list[str]]]:
        ends[:] = how
        nodes = list(free)
        monkeypatch.setattr(trainer, "available_resources_per_node", lambda: {"only": nodes.pop(0) if len(nodes) > 1 else nodes[0]})
        trainer.fit_transformer(REQUEST, "window", teachers, str(tmp_path))
        assert ends == []
        return begun

    monkeypatch.setattr(trainer, "TorchTrainer", Fit)
    monkeypatch.setattr(trainer, "take_back", lambda: None)  # There is no Ray.
    return run


def test_a_fit_finds_what_a_killed_one_left_and_leaves_nothing(fits: Any, tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(LEFT, b"")
    assert fits(TeachersConfig(), None) == [(1, -1, [LEFT])]
    assert LocalStorage(tmp_path).list() == []
    LocalStorage(tmp_path).write_new(LEFT, b"")
    with pytest.raises(TrainingFailedError, match="of its own"):
        fits(TeachersConfig(), TrainingFailedError("of its own"))
    assert LocalStorage(tmp_path).list() == []


def test_as_many_workers_begin_as_there_is_room_for_and_fewer_go_on_from_the_checkpoints(fits: Any, tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(LEFT, b"")
    assert fits(TWO, NO_PLACE, None, free=({"CPU": 8.0}, {"CPU": 1.0})) == [(2, 0, [LEFT]), (1, 0, [LEFT])]


def test_with_room_for_fewer_than_the_least_a_fit_waits_for_the_least(fits: Any) -> None:
    teachers = TeachersConfig(num_train_workers=3, min_train_workers=2)
    assert [begun[0] for begun in fits(teachers, NO_PLACE, NO_PLACE, None, free=({"CPU": 0.1}, {"CPU": 0.1}, {"CPU": 9.0}))] == [2, 2, 3]


def test_workers_that_die_at_their_start_are_not_started_for_ever(fits: Any) -> None:
    dead = ControllerError(trainer.WorkerGroupStartupFailedError("dead"))
    with pytest.raises(ControllerError, match="dead"):
        fits(TWO, *[dead] * (trainer.MAX_FAILURES + 1), free=({"CPU": 8.0},))


def test_a_gpu_that_torch_does_not_find_is_told_of_with_what_to_do(fits: Any) -> None:
    error = ControllerError(RuntimeError("ProcessGroupNCCL is only supported with GPUs, no GPUs found!"))
    with pytest.raises(OperatorError, match=r"Trainer: Ray gave a train worker a GPU, and its torch finds none, install a torch with CUDA"):
        fits(TeachersConfig(use_gpu=True), error)
