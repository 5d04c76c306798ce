"""Measure a server of our own, whose freshness is known."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from streamrec.testing.measure import Measure

SEEN_AFTER_S = 0.05


class Shop(BaseHTTPRequestHandler):
    """Answers use an event `SEEN_AFTER_S` after they were first asked for it; a version learns from it when the server's ``learns`` says so.

    A client asks once it has its acknowledgement, so whatever it measures from there is no less; the time at which the event came here is earlier.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/v1/models":
            end = len(self.server.came) if self.server.learns else 0
            self.reply({"live": {"offsets": {"events": {"0": end}}}})
            return
        user = self.path.split("/")[3].split("?")[0]
        used = user in self.server.came and time.monotonic() - self.server.asked.setdefault(user, time.monotonic()) >= SEEN_AFTER_S
        self.reply({"items": [{"item_id": "a"}], "model_version": "v1", "user_events": int(used), "source": "student" if used else "popular"})

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.came.add(event["user_id"])
        self.reply({"results": [{"status": "accepted", "partition": 0, "offset": len(self.server.came) - 1}]})

    def reply(self, values):
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def shop():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.came, server.asked, server.learns = set(), {}, True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def measured(server, is_enough):
    measure = Measure(f"http://127.0.0.1:{server.server_port}", ["u1", "u2"], 50.0, "click", every_s=0.05)
    measure.start()
    deadline = time.monotonic() + 30.0
    while not is_enough(measure.tally.summary()):
        assert time.monotonic() < deadline, measure.tally.summary()
    measure.stop()
    return measure.tally.summary()


def test_what_answers_use_and_versions_learn_is_timed_from_the_acknowledgement(shop):
    found = measured(shop, lambda summary: summary["num_state"] >= 3 and summary["num_model"] >= 3)
    assert (found["failed"], found["lost"]) == (0, 0)
    assert found["state_ms_p50"] >= 1000 * SEEN_AFTER_S
    assert found["versions"] == ["v1"]
    assert found["sent"] > 0


def test_events_that_no_version_learns_from_are_named_and_not_left_out_in_silence(shop):
    shop.learns = False
    found = measured(shop, lambda summary: summary["num_open"] >= 2)
    assert found["num_model"] == 0
    assert found["model_s_p50"] is None
    assert found["open_s_max"] > 0
