"""A report as a person opens it: a file in a real browser without a network, of a run that the real local loop made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe

from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.events.codec import encode_table
from streamrec.events.synthetic import synthetic_dataset
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.wiring import build_local
from streamrec.report.of_run import report_of_run
from streamrec.report.page import to_html

PICTURES = os.environ.get("STREAMREC_PICTURES", "")
NUM_EVENTS = 14_000 if PICTURES else 800
STEP_EVENTS = 160 if PICTURES else 100
STEPS = {"first_steps": 150, "refresh_steps": 60} if PICTURES else {"first_steps": 5, "refresh_steps": 3}
HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">'

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run: a bootstrap, then a stream that brings some events every two seconds."""
    folder = tmp_path_factory.mktemp("report")
    config = parse_config(
        {
            "state": str(folder / "lamps"),
            "features": {"history_length": 20, "word_buckets": 64},
            "student": {"dim": 24, "bootstrap_passes": 2},
            "teachers": {
                "enabled": ["linear", "transformer", "repeats"],
                "transformer": {"dim": 16, "num_layers": 1, "num_heads": 1, **STEPS},
                "transformer_refresh_events": NUM_EVENTS // 4,
                "linear_refresh_events": NUM_EVENTS // 5,
                "refresh_earliest": 1.0,
            },
            "registry": {"gate_min_queries": 100 if PICTURES else 20},
            "pipeline": {"max_batch_events": STEP_EVENTS},
        }
    )
    world = synthetic_dataset(num_users=600, num_items=500, num_events=NUM_EVENTS, num_tastes=12, loyalty=0.8, repeats=0.05)
    log, clock, rng = MemoryLog(), ManualClock(1_764_000_000_000), np.random.default_rng(0)
    topic = config.log.events_topic
    log.ensure_topic(topic, 2)
    log.ensure_topic(config.log.dead_letter_topic, 1)

    def send(table: pa.Table) -> None:
        keys, values = encode_table(table)
        arrived = [clock.now_ms() - round(1000 * wait) for wait in rng.gamma(2.0, 0.5, len(keys))]
        log.append(topic, [Record(key, value, timestamp_ms=at) for key, value, at in zip(keys, values, arrived, strict=True)])

    send(world.items)
    send(world.events.slice(0, NUM_EVENTS // 4))
    controller = build_local(config, log, config.state, clock, dead_letters=log)
    controller.recover()
    bootstrap(controller, log.latest(topic))
    for start in range(NUM_EVENTS // 4, NUM_EVENTS, STEP_EVENTS):
        send(world.events.slice(start, STEP_EVENTS))
        log.append(topic, [Record(b"u1", b"{torn")] if start % 3 == 0 else [])
        controller.step()
        clock.advance(2.0)
    told = {"kind": "item_update", "event_id": "h1", "item_id": "i0", "title": HOSTILE, "event_time": clock.now_ms()}
    log.append(topic, [Record(b"i0", json.dumps(told).encode())] if not PICTURES else [])
    while controller.step() is not None:
        clock.advance(2.0)
    controller.finish()
    path = folder / "report.html"
    path.write_text(to_html(report_of_run(config, clock.now_ms())), encoding="utf-8")
    return path


class Opened:
    def __init__(self, browser: Any, path: Path, *, width: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, locale="en-GB")
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_a_file_without_a_network_an_error_or_a_fault_for_anybody(browser: Any, made: Path, scheme: str) -> None:
    with Opened(browser, made, width=1120, scheme=scheme) as opened:
        page = opened.page
        assert page.title() == "lamps · streamrec"
        assert page.get_by_role("heading", level=1).inner_text().startswith("The student is ")
        assert page.get_by_role("img").first.bounding_box()["width"] > 900
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            if scheme == "light":
                shown = page.locator("section").nth(1).bounding_box()  # The first screens; the rest goes on like this.
                clip = {"x": 0, "y": 0, "width": 1120, "height": shown["y"] + shown["height"] + 24}
                page.screenshot(path=str(Path(PICTURES) / "report.png"), clip=clip, full_page=True)
            page.screenshot(path=str(made.parent / f"whole-{scheme}.png"), full_page=True)
            print("whole page:", made.parent / f"whole-{scheme}.png")
        for details in page.locator("details").all():
            details.locator("summary").click()
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in {"serious", "critical"}] == []
        assert page.locator("script, main img, iframe").count() == 0
        assert page.evaluate("window.hurt") is None
        assert opened.errors == []
        assert opened.asked == [made.as_uri()]


def test_on_a_phone_it_is_read_without_scrolling_sideways(browser: Any, made: Path) -> None:
    with Opened(browser, made, width=360, scheme="light") as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("svg.plot:visible text").first.evaluate("node => node.getBoundingClientRect().height") > 10
        if PICTURES:
            page.screenshot(path=str(made.parent / "whole-phone.png"), full_page=True)
        assert opened.errors == []
