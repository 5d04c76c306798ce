"""`streamrec dev`: everything in one process, fed and asked from outside, stopped by a signal, and started again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import ray

from jobs import dev, recommend_batch
from serve import haproxy
from streamrec.config import parse_config
from streamrec.pipeline.batch import PartMaker, Wish, begun, is_done
from streamrec.pipeline.layout import registry_url
from streamrec.registry.remote_board import RemoteBoard
from streamrec.storage import LocalStorage

PATIENCE_S = 60.0
NUM_EVENTS = 60
USERS = ("new", *(f"u{number}" for number in range(6)))


class Outside(threading.Thread):
    """Somebody who does things with the server, and ends it by a signal, whatever happens."""

    def __init__(self, url: str, number: int, do: Any) -> None:
        super().__init__(daemon=True)
        self.url, self.error, self.found = url, None, None
        self._number, self._do = number, do
        self.start()

    def run(self) -> None:
        try:
            self.found = self._do(self)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.error = error
        finally:
            os.kill(os.getpid(), self._number)

    def ask(self, path: str, value: Any = None) -> Any:
        """Ask until there is a good answer."""
        return json.loads(self.text(path, None if value is None else json.dumps(value).encode()))

    def text(self, path: str, data: bytes | None = None, holds: str = "") -> str:
        for _ in range(int(PATIENCE_S / 0.1)):
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", data), timeout=10) as answer:
                    told: str = answer.read().decode()
                if holds in told:
                    return told
            except OSError:  # Refused, or a status that is no good yet.
                pass
            time.sleep(0.1)
        pytest.fail(f"{path} had no good answer within {PATIENCE_S:.0f} s")


def event(number: int, user: str, item: str) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "event_type": "click", "event_time": 1_000 * int(time.time()) + number}


def first_events(outside: Outside) -> tuple[str, list[str]]:
    """Post events to a server that has none, and ask for somebody who was not there before."""
    outside.ask("/healthz")
    sent = outside.ask("/v1/events", [event(number, f"u{number % 6}", f"i{number * 7 % 20}") for number in range(NUM_EVENTS)])
    assert sent["accepted"] == NUM_EVENTS
    version = outside.ask("/readyz")["model_version"]
    outside.ask("/v1/events", [event(1000, "new", "i7")])
    while (found := outside.ask("/v1/recommend", {"user_id": "new", "n": 3}))["source"] != "student":
        time.sleep(0.05)
    outside.text("/metrics", holds=f'streamrec_books_records{{column="applied"}} {NUM_EVENTS + 1}')  # The stream, too, has it.
    return version, [item["item_id"] for item in found["items"]]


def again(outside: Outside) -> tuple[str, dict[str, Any]]:
    version = outside.ask("/readyz")["model_version"]
    answers = {user: outside.ask("/v1/recommend", {"user_id": user, "n": 5}) for user in USERS}
    outside.ask("/v1/events", [event(1001, "late", "i3")])
    outside.text("/metrics", holds=f'streamrec_books_records{{column="applied"}} {NUM_EVENTS + 2}')  # The stream is at work, too.
    return version, answers


def actors() -> list[dict[str, str]]:
    """Actors that outlive whoever made them, but boards: on a cluster that is there these may be others', too."""
    found = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "board" not in actor["name"]]
    return sorted(found, key=lambda actor: actor["name"])  # Ray names them in any order.


@pytest.mark.usefixtures("ray_cluster")
def test_it_answers_from_the_first_events_on_stops_by_a_signal_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(haproxy, "wanted", lambda _: False)  # It takes half a minute to end.
    monkeypatch.setattr(dev, "QUIET_S", 0.5)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = actors()
    port = haproxy.free_port()
    words = ["--state", str(tmp_path / "state"), "--set", "log.broker=local", "--set", f"serving.port={port}", "--set", "serving.num_replicas=1"]
    words += ["--set", "teachers.enabled=[]", "--set", "student.control=false", "--set", "student.dim=8", "--set", "features.history_length=8"]
    words += ["--set", "pipeline.checkpoint_interval_s=1s"]  # What is told as applied is committed.
    try:
        outside = Outside(f"http://127.0.0.1:{port}", signal.SIGINT, first_events)
        assert dev.main(words) == 0, outside.error
        assert outside.error is None
        out, err = capsys.readouterr()
        url, *_, last = out.splitlines()
        assert url == outside.url
        stopped = json.loads(last)
        assert stopped["books"]["applied"] == NUM_EVENTS + 1
        assert stopped["books"]["pending"] == 0
        assert stopped["live"] >= outside.found[0]
        assert len(outside.found[1]) == 3
        assert f"learning the first {NUM_EVENTS} events, training the first teachers\n" in err
        assert actors() == before

        outside = Outside(f"http://127.0.0.1:{port}", signal.SIGTERM, again)
        assert dev.main(words) == 0, outside.error
        assert outside.error is None
        version, answers = outside.found
        assert version >= stopped["live"]
        assert answers["new"]["user_events"] == 1
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["books"]["applied"] == NUM_EVENTS + 2
        assert actors() == before

        # Answers for all, from what it has left, are those that it gave; one part is there from a run that was killed.
        config, out = parse_config({"state": str(tmp_path / "state"), "features": {"history_length": 8}}), LocalStorage(tmp_path / "out")
        plan = begun(config, Wish(version=version, n=5), out, 3)
        PartMaker(config, out.address, plan).make(1)
        words = [
            "--set",
            f"state={config.state}",
            "--set",
            "features.history_length=8",
            "-n",
            "5",
            "--version",
            version,
            "--part-users",
            "3",
            "--out",
            out.address,
        ]
        assert recommend_batch.main(words) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["parts_made"] == 2
        assert told.err.count(" is there, ") == 2
        assert is_done(out)
        assert ray.is_initialized()
        rows = {row["user_id"]: row for row in ds.dataset(tmp_path / "out", format="parquet").to_table().to_pylist()}
        assert rows.keys() == {*USERS, "late"}
        for user, answer in answers.items():
            assert [item["item_id"] for item in rows[user]["items"]] == [item["item_id"] for item in answer["items"]]
            assert [item["score"] for item in rows[user]["items"]] == pytest.approx([item["score"] for item in answer["items"]], abs=1e-5)
            assert {name: rows[user][name] for name in ("model_version", "source", "user_events")}.items() <= answer.items()
    finally:
        RemoteBoard.get_or_create(registry_url(str(tmp_path / "state"))).kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)
