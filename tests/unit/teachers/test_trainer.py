from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamrec.config import TeachersConfig
from streamrec.teachers import trainer

REQUEST = {"teacher": "transformer", "version": "v00000007"}


class Broken:
    """Stands in for Ray Train: notes where it may write, finds nothing of an earlier run there, and fails."""

    def __init__(self, *_: Any, run_config: Any, **__: Any) -> None:
        self.folder = Path(run_config.storage_path)

    def fit(self) -> None:
        assert list(self.folder.iterdir()) == []
        (self.folder / "checkpoint").touch()
        raise RuntimeError(str(self.folder))


def test_ray_train_works_beside_the_version_and_what_a_killed_fit_left_there_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "TorchTrainer", Broken)
    folder = tmp_path / "teachers" / "transformer" / "v00000007" / "run"
    folder.mkdir(parents=True)
    (folder / "left-by-a-killed-fit").touch()
    with pytest.raises(RuntimeError, match=str(folder)):
        trainer.fit_transformer(REQUEST, "window", TeachersConfig(), str(tmp_path))
    assert not folder.exists()
