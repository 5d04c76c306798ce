"""What a terminal shows of a server, read from `GET /v1/live` as a browser does; no browser is needed."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: PLC2701 - the way of rich's own documentation
from rich.console import Console

from jobs.live_reader import LiveReader
from jobs.live_view import Picture, Situation
from streamrec.config.keys import ApiKey, digest_of

pytestmark = pytest.mark.slow

# Rich's own format has its font from another host.
SVG = re.sub(r"@font-face {{.*?}}\n?", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
PATIENCE_S = 30.0


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_terminal_shows_what_the_server_tells(server: Any) -> None:
    pictures = os.environ.get("STREAMREC_PICTURES", "")
    with LiveReader(server.url) as reader:
        until(lambda: len(reader.frames) > (25 if pictures else 2) and reader.facts().p99_ms is not None)
        facts = reader.facts()
    assert facts.version == server.board.state.version
    assert facts.events_per_s is not None
    assert 100 < facts.events_per_s < 900
    assert facts.requests_per_s is not None
    assert facts.requests_per_s > 0
    assert facts.errors == 0
    assert facts.scores["student"] > facts.scores["popular"] > 0
    places = {"API, dashboard": "http://127.0.0.1:8000/", "events": "streamrec.events at kafka://127.0.0.1:42795"}
    situation = Situation(
        "dev", places, happened=["  412 s  transformer v00000066 used: its labels are better by 0.004", "  590 s  linear v00000129 used"]
    )
    console = Console(record=True, file=io.StringIO(), width=104, height=40, force_terminal=True, color_system="truecolor")
    console.print(Picture(facts, situation, 1200.0))
    svg = console.export_svg(title="streamrec dev", code_format=SVG)
    assert server.board.state.version in svg
    assert not re.search(r"https?://(?!www\.w3\.org|127\.0\.0\.1|www\.textualize\.io)", svg)
    if pictures:
        Path(pictures).mkdir(parents=True, exist_ok=True)
        (Path(pictures) / "dev.svg").write_text(svg, encoding="utf-8")


def test_a_server_that_asks_for_a_key_is_told_of_and_tells_whoever_has_one(make_server: Callable[..., Any]) -> None:
    asks = make_server(keys={"reader": ApiKey(sha256=digest_of(b"k"), scopes=("read",))})
    with LiveReader(asks.url) as without, LiveReader(asks.url, "k") as reader:
        until(lambda: bool(without.trouble and reader.frames))
    assert "the server answers 401 to its own numbers; STREAMREC_API_KEY must have a key that reads" in without.trouble
    assert without.frames == []
