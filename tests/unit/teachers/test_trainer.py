from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train import TrainingFailedError

from streamrec.config import TeachersConfig
from streamrec.teachers import trainer

REQUEST = {"teacher": "transformer", "version": "v00000007"}


class Broken:
    """Stands in for Ray Train: notes what an earlier run has left where it may write, and fails."""

    found: list[list[str]]

    def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
        self.folder = Path(run_config.storage_path)

    def fit(self) -> None:
        self.found.append(sorted(path.name for path in self.folder.rglob("*")))
        (self.folder / "begun").touch()
        raise TrainingFailedError(str(self.folder))


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    Broken.found = []
    monkeypatch.setattr(trainer, "TorchTrainer", Broken)
    monkeypatch.setattr(trainer, "take_back", lambda: None)  # There is no Ray.
    with pytest.raises(TrainingFailedError, match=str(folder)):
        trainer.fit_transformer(REQUEST, "window", TeachersConfig(), str(folder))
    assert not (folder / "teachers" / "transformer" / "v00000007" / "run").exists()
    return Broken.found


def test_ray_train_works_beside_the_version_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(tmp_path, monkeypatch) == [[]]


def test_a_fit_goes_on_with_what_a_killed_one_left_and_where_it_cannot_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "teachers" / "transformer" / "v00000007" / "run" / "transformer-v00000007" / "torn"
    left.mkdir(parents=True)
    assert fit(tmp_path, monkeypatch) == [["torn", "transformer-v00000007"], ["begun"]]
