"""What catalogues say of items, kept by the stream for teachers that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamrec.config import TeachersConfig
from streamrec.log.base import Record
from streamrec.storage import open_storage
from streamrec.teachers.protocol import window_request
from streamrec.teachers.store import TeacherStore
from streamrec.testing.circles import Circles

World = Any


def test_a_stream_keeps_what_items_say_for_the_teacher_that_reads_it(
    make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    settings = {"teachers": {"enabled": ["text"], "text_refresh_events": 40, "window_events": 400}}
    world = make_world(folder=tmp_path / "state", settings=settings)
    world.append(
        make_record("", f"i{number}", number, kind="item_update", title=f"river {number}", vectors={"image": [number, 1.0]}, event_id=f"t{number}")
        for number in range(10)
    )
    world.append(make_record(f"u{number % 7}", f"i{number * 3 % 10}", 10 + number) for number in range(200))
    controller = world.controller()
    world.play(controller)
    version = controller.state.teachers["text"]
    state = TeacherStore(open_storage(str(tmp_path / "state"))).load("text", version)
    assert (state.arrays["generation"] >= 0).sum() == 10
    assert state.arrays["vectors"].shape[1] == 512 + 2
    again = world.controller()
    assert again.components()["item_content"].digest() == controller.components()["item_content"].digest()
    assert "item_content" not in make_world(folder=tmp_path / "other").controller().components()
    assert "text_bytes" not in window_request(Circles().material(TeachersConfig()), TeachersConfig()).arrays
