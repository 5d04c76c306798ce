from __future__ import annotations

from pathlib import Path

import pytest

from streamrec.config import TeachersConfig
from streamrec.state import digest_of
from streamrec.storage import LocalStorage
from streamrec.teachers.kinds import kind_of
from streamrec.teachers.refresh import RayRefresher
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.store import TeacherStore
from streamrec.testing.circles import Circles

CONFIG = TeachersConfig(enabled=("linear", "text"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_task_makes_the_version_that_is_made_without_ray(tmp_path: Path) -> None:
    refresher, material = RayRefresher(CONFIG, str(tmp_path / "ray")), Circles().material(CONFIG)
    for teacher in CONFIG.enabled:
        request = RefreshRequest(teacher, "v00000003", None, 5, len(material.generations), kind_of(teacher).request(material, CONFIG))
        refresher.start(request)
        carry_out(request, CONFIG, str(tmp_path / "here"))
    for teacher in CONFIG.enabled:
        refresher.wait(teacher, "v00000003")
        made, mine = (TeacherStore(LocalStorage(tmp_path / place)).load(teacher, "v00000003") for place in ("ray", "here"))
        assert digest_of(made) == digest_of(mine)
    assert refresher.finished() == dict.fromkeys(CONFIG.enabled, "v00000003")
    assert [path.parent.parent.name for path in (tmp_path / "ray").rglob("window.safetensors")] == ["text"]
