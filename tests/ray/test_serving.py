"""The whole serving stage on Ray Serve: proxy, replicas, board, registry and log, asked through HTTP."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import ray

from serve import launch as launcher
from serve.live import MOST_READERS
from streamrec.config import parse_config
from streamrec.log.connect import local_address, open_admin
from streamrec.registry.gate import Decision, Reason, Verdict
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.telling import STREAM
from streamrec.registry.version import VersionFacts
from streamrec.serving.recommender import Recommender
from streamrec.storage import open_storage
from streamrec.telemetry.numbers import Numbers

NUM_ITEMS = 300
NUM_REPLICAS = 2
PATIENCE_S = 30.0


@dataclass
class Server:
    """What the tests ask and move."""

    host: str
    port: int
    registry: Registry
    board: RemoteBoard
    make_version: Callable
    num_versions: int = 0

    def ask(self, method, path, value=None, body=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            data = body if body is not None else (None if value is None else json.dumps(value).encode())
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), json.loads(answer.read())
        finally:
            connection.close()

    def text(self, path):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()
        finally:
            connection.close()

    def from_every_replica(self, method, path, value, is_wanted):
        """Ask until every replica has given a wanted answer; return one answer by replica."""
        found = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < NUM_REPLICAS:
            answer = self.ask(method, path, value)
            assert time.monotonic() < deadline, f"still {found.keys()}, last {answer}"
            if is_wanted(*answer):
                found[answer[1]["x-streamrec-replica"]] = answer
        return found

    def promote(self, seed, spoilt=False):
        """Publish, promote and hand out one version; return its id."""
        arrays, meta = self.make_version(seed, NUM_ITEMS)
        if spoilt:
            arrays["item_bias"][7] = np.nan
        return self.promote_made(arrays, meta, seed)

    def promote_made(self, arrays, meta, seed=0, carried=None):
        self.num_versions += 1
        version = f"v{self.num_versions:08d}"
        manifest = self.registry.publish(version, arrays, meta, VersionFacts(offsets={"events": {0: seed}}))
        # By a decision, as a gate promotes: the board waits for the push, instead of reading the version before it comes.
        facts = {"verdict": Verdict.PROMOTE, "code": Reason.FIRST_VERSION, "batch": self.num_versions, "numbers": {}, "live": None}
        move = self.registry.promote(version, "a test", Decision(candidate=version, reason="a test", **facts))
        self.board.publish({**manifest.model_dump(mode="json"), **(carried or {})}, arrays, meta, move.number)
        return version

    def wait_for_version(self, version):
        self.from_every_replica("GET", "/readyz", None, lambda status, _, answer: status == 200 and answer["model_version"] == version)


class Receiver(ThreadingHTTPServer):
    """Takes what replicas post of traces, as it is: names and ids stand in it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Posted)
        self.bodies, self.came = [], threading.Condition()


class Posted(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        with self.server.came:
            self.server.bodies.append(body)
            self.server.came.notify_all()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def server(ray_cluster, tmp_path_factory, make_version, receiver):
    folder = tmp_path_factory.mktemp("serving")
    serving = {"port": 0, "num_replicas": NUM_REPLICAS, "max_body_bytes": 5000}
    telemetry = {"traces_endpoint": f"http://127.0.0.1:{receiver.server_port}"}
    config = parse_config({"serving": serving, "log": {"num_partitions": 2}, "telemetry": telemetry})
    address = local_address(folder / "log")
    open_admin(address, config.log).ensure_topic(config.log.events_topic, 2)
    state = str(folder / "state")
    base_url = launcher.launch(config, address, state)
    host, port = base_url.removeprefix("http://").split(":")
    yield Server(host, int(port), Registry(open_storage(f"{state}/registry")), RemoteBoard.get_or_create(f"{state}/registry"), make_version)
    launcher.shutdown()


@pytest.fixture
def live(server):
    """The server with a version live on every replica."""
    version = server.promote(server.num_versions)
    server.wait_for_version(version)
    return server


def test_without_a_version_the_server_is_alive_but_not_ready(server):
    assert server.ask("GET", "/healthz")[0] == 200
    for method, path, value in (("GET", "/readyz", None), ("POST", "/v1/recommend", {"user_id": "u"})):
        status, _, answer = server.ask(method, path, value)
        assert (status, answer["error"]["field"]) == (503, "model")


def test_a_promoted_version_answers_on_every_replica(live):
    answers = live.from_every_replica("POST", "/v1/recommend", {"history": ["item-3"], "n": 5}, lambda status, *_: status == 200)
    for _, headers, answer in answers.values():
        assert answer["source"] == "student"
        assert answer["model_version"] == headers["x-streamrec-model"]
        assert len(answer["items"]) == 5


def test_the_trace_that_a_version_carries_goes_on_in_every_replica(live, receiver):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    seed = live.num_versions
    version = live.promote_made(*live.make_version(seed, NUM_ITEMS), seed, {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    live.wait_for_version(version)
    answers = live.from_every_replica("POST", "/v1/recommend", {"history": ["item-3"]}, lambda status, *_: status == 200)

    def told():
        whole = b"".join(receiver.bodies)
        return all(whole.count(word) == NUM_REPLICAS for word in (b"swap", b"first_answer")) and all(name.encode() in whole for name in answers)

    with receiver.came:
        assert receiver.came.wait_for(told, PATIENCE_S), receiver.bodies
    assert b"".join(receiver.bodies).count(bytes.fromhex(trace_id)) == 2 * NUM_REPLICAS, "other versions carry no trace"


def test_swaps_under_requests_lose_none_and_mix_no_versions(live):
    histories = [[f"item-{first}", f"item-{first + 1}"] for first in range(0, 40, 2)]
    expected, seen, stop = {}, [], threading.Event()

    def expect(version, seed):
        recommender = Recommender(*live.make_version(seed, NUM_ITEMS))
        for number, history in enumerate(histories):
            rows = recommender.catalog.rows_of("default", history)[::-1]
            expected[number, version] = recommender.recommend(rows, 5, rows)[0]

    def ask_on():
        number = 0
        while not stop.is_set():
            number = (number + 1) % len(histories)
            seen.append((number, *live.ask("POST", "/v1/recommend", {"history": histories[number], "n": 5})))

    expect(f"v{live.num_versions:08d}", live.num_versions - 1)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_on) for _ in range(4)]
        try:
            for _ in range(10):
                seed = live.num_versions
                version = live.promote(seed)
                expect(version, seed)
                live.wait_for_version(version)
        finally:
            stop.set()
        for one in asking:
            one.result()

    assert len(seen) > 50
    assert {status for _, status, _, _ in seen} == {200}
    assert all([item["item_id"] for item in answer["items"]] == expected[number, answer["model_version"]] for number, _, _, answer in seen)
    # A replica serves the last version before the board has heard of it: it tells with its next question.
    deadline = time.monotonic() + PATIENCE_S
    while (swaps := live.board.swap_report()[-10:])[-1]["all_replicas_ms"] is None:
        assert time.monotonic() < deadline, swaps[-1]
    assert [swap["version"] for swap in swaps] == [f"v{number:08d}" for number in range(live.num_versions - 9, live.num_versions + 1)]
    assert all(swap["all_replicas_ms"] is not None and not swap["refused"] for swap in swaps)


def test_what_changed_since_the_version_before_reaches_every_replica_as_a_delta(live):
    def all_took_deltas():
        answers = live.from_every_replica("GET", "/v1/models", None, lambda status, *_: status == 200)
        return all(facts["board"]["deltas"] for _, _, facts in answers.values())

    arrays, meta = live.make_version(live.num_versions - 1, NUM_ITEMS)
    deadline = time.monotonic() + PATIENCE_S
    # A replica that missed one is handed the next one whole.
    while not all_took_deltas():
        assert time.monotonic() < deadline, "every version came whole"
        arrays = {name: array.copy() for name, array in arrays.items()}
        arrays["item_bias"][live.num_versions] += 100
        live.wait_for_version(live.promote_made(arrays, meta, live.num_versions))
    wanted = Recommender(arrays, meta).recommend(np.array([3], np.int32), 5, np.array([3], np.int32))[0]
    answers = live.from_every_replica("POST", "/v1/recommend", {"history": ["item-3"], "n": 5}, lambda status, *_: status == 200)
    assert {tuple(item["item_id"] for item in answer["items"]) for _, _, answer in answers.values()} == {tuple(wanted)}


def test_events_are_acknowledged_from_the_log_and_change_the_next_answers(live):
    now_ms = time.time_ns() // 1_000_000
    events = [
        {"event_id": f"event-{n}", "user_id": "fresh", "item_id": f"item-{n}", "event_type": "click", "event_time": now_ms + n} for n in range(3)
    ]
    assert live.ask("GET", "/v1/recommend/fresh")[2]["why"] == "unknown user"

    status, _, answer = live.ask("POST", "/v1/events", [*events, {"event_id": "bad"}])

    assert (status, answer["accepted"], answer["rejected"]) == (200, 3, 1)
    assert [result["offset"] for result in answer["results"][:3]] == [0, 1, 2]
    assert answer["results"][3]["reason"] == "missing_field"
    answers = live.from_every_replica("GET", "/v1/recommend/fresh?n=7", None, lambda _, __, answer: answer["user_events"] == 3)
    for _, _, answer in answers.values():
        assert answer["source"] == "student"
        assert not {"item-0", "item-1", "item-2"} & {item["item_id"] for item in answer["items"]}


def test_an_item_that_can_not_be_had_is_in_no_replicas_answer_until_an_update_says_that_it_can_again(live):
    question = {"history": ["item-3"], "n": 5}
    best = live.ask("POST", "/v1/recommend", question)[2]["items"][0]["item_id"]
    popular = live.ask("GET", "/v1/recommend/nobody?n=5")[2]["items"][0]["item_id"]

    def say(available):
        said = {"kind": "item_update", "available": available, "event_time": time.time_ns() // 1_000_000}
        updates = [{**said, "event_id": f"{item}-{available}", "item_id": item} for item in {best, popular}]
        status, _, answer = live.ask("POST", "/v1/events", updates)
        assert (status, answer["accepted"]) == (200, len(updates))

    def every_replica_answers(is_wanted):
        for method, path, value in (("POST", "/v1/recommend", question), ("GET", "/v1/recommend/nobody?n=5", None)):
            answers = live.from_every_replica(method, path, value, lambda _, __, answer: is_wanted({item["item_id"] for item in answer["items"]}))
            assert all(len(answer["items"]) == 5 for _, _, answer in answers.values())

    say(available=False)
    every_replica_answers(lambda items: not items & {best, popular})
    assert live.ask("GET", "/v1/models")[2]["history_view"]["unavailable"] == len({best, popular})
    live.wait_for_version(live.promote(live.num_versions - 1))  # Nor does the next version bring it back: the same weights.
    every_replica_answers(lambda items: not items & {best, popular})
    say(available=True)
    every_replica_answers(lambda items: items & {best, popular})
    live.from_every_replica("POST", "/v1/recommend", question, lambda _, __, answer: answer["items"][0]["item_id"] == best)


def test_what_is_put_of_an_item_is_filtered_by_on_every_replica_and_a_model_is_moved_by_http(live):
    said = {"title": "Lamp", "categories": ["lamp"], "price": 5}
    status, _, put = live.ask("PUT", "/v1/items/item-17", said)
    assert (status, put["status"]) == (200, "accepted")
    live.from_every_replica("GET", "/v1/items/item-17", None, lambda status, _, found: status == 200 and found.get("title") == "Lamp")
    asked = {"history": ["item-3"], "n": 5, "categories": ["lamp"], "explain": True}
    answers = live.from_every_replica("POST", "/v1/recommend", asked, lambda _, __, answer: len(answer["items"]) == 1)
    assert all("1 of the 300 items" in answer["short"] for _, _, answer in answers.values())
    assert live.ask("GET", "/openapi.json")[2]["paths"]["/v1/recommend"]["post"]
    # On loopback anybody on this machine may move models; every replica follows the registry.
    before, after = f"v{live.num_versions:08d}", live.promote(live.num_versions)
    live.wait_for_version(after)
    assert live.ask("POST", f"/v1/models/{before}:promote", {"reason": "a test"})[2]["version"] == before
    live.wait_for_version(before)
    assert live.ask("POST", "/v1/models:rollback")[2]["version"] == after
    live.wait_for_version(after)


def test_a_version_that_is_not_finite_is_refused_and_the_live_one_goes_on(live):
    before = f"v{live.num_versions:08d}"
    live.promote(0, spoilt=True)
    answers = live.from_every_replica("GET", "/v1/models", None, lambda _, __, facts: facts["last_rejection"] is not None)
    for _, _, facts in answers.values():
        assert facts["live"]["model_version"] == before
        assert "item_bias is not finite" in facts["last_rejection"]["reason"]
    # A replica answers with what it refused before the board has heard of it.
    deadline = time.monotonic() + PATIENCE_S
    while (refused := live.board.swap_report()[-1]["refused"].keys()) != answers.keys():
        assert time.monotonic() < deadline, f"the board has heard from {refused} of {answers.keys()}"


def test_models_shows_what_serves_and_where_it_stands(live):
    facts = live.ask("GET", "/v1/models")[2]
    assert facts["live"]["model_version"] == f"v{live.num_versions:08d}"
    assert facts["live"]["items"] == NUM_ITEMS
    assert facts["live"]["offsets"] == {"events": {"0": live.num_versions - 1}}
    assert facts["previous"]["model_version"] != facts["live"]["model_version"]
    assert facts["history_view"]["state"] == "follow"


def test_whichever_replica_answers_metrics_tell_of_the_stream_of_all_replicas_and_of_the_board(live):
    stream = Numbers()
    stream.put("streamrec_lag_records", 41)
    live.board.tell(STREAM, stream.taken())
    answers = live.from_every_replica("POST", "/v1/recommend", {"history": ["item-3"], "n": 5}, lambda status, *_: status == 200)
    told, deadline = set(), time.monotonic() + PATIENCE_S
    while told != set(answers):  # Each replica tells the board once a second.
        assert time.monotonic() < deadline, f"only {told} of {answers.keys()}"
        text = live.text("/metrics")
        told = set(re.findall(r'^streamrec_answers_total{replica="([^"]+)",source="student"} [1-9]', text, re.MULTILINE))
    for line in ("streamrec_lag_records 41.0", f"streamrec_replicas {NUM_REPLICAS}.0"):
        assert line in text.splitlines()
    assert re.search(r'^streamrec_told_age_seconds{source="stream"} [0-9.e-]+$', text, re.MULTILINE)
    assert float(re.search(r"^streamrec_swap_seconds ([0-9.]+)$", text, re.MULTILINE)[1]) < 1.0


def test_a_rollback_in_the_registry_takes_effect_within_a_second(live):
    before = live.num_versions
    live.wait_for_version(live.promote(before))
    start_s = time.monotonic()
    live.registry.rollback("a test")
    live.wait_for_version(f"v{before:08d}")
    assert time.monotonic() - start_s < 1.0


def test_while_the_board_is_dead_replicas_answer_and_it_comes_back_with_the_registrys_live_version(live):
    version = live.promote(77)
    live.wait_for_version(version)
    pid = ray.get(live.board.actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        status, _, answer = live.ask("POST", "/v1/recommend", {"history": ["item-3"], "n": 5})
        assert (status, answer["model_version"]) == (200, version)
    assert live.board.live()[1] == version
    assert ray.get(live.board.actor.__ray_call__.remote(lambda _: os.getpid())) != pid
    after = live.promote(78)
    live.wait_for_version(after)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/v1/recommend", b'{"user_id": "u", "n": 10000}', 400, "n"),
        ("POST", "/v1/recommend", b"no json", 400, "body"),
        ("POST", "/v1/recommend", b"x" * 6000, 413, "body"),
        ("GET", "/v1/recommend", None, 405, "method"),
        ("GET", "/v3", None, 404, "path"),
    ],
)
def test_refusals_reach_the_client_through_the_proxy(live, method, path, body, status, field):
    got, _, answer = live.ask(method, path, body=body)
    assert (got, answer["error"]["field"]) == (status, field)


def test_the_dashboard_and_what_it_shows_come_through_the_proxy_and_end_with_their_reader(live):
    connection = http.client.HTTPConnection(live.host, live.port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/html; charset=utf-8")
    assert b"dashboard/app.js" in answer.read()
    connection.close()
    _, _, system = live.ask("GET", "/v1/system")
    free = {one["name"]: (one["free"], one["total"]) for one in system["resources"]}
    assert 0 <= free["CPU"][0] < free["CPU"][1]
    assert 0 < free["object_store_memory"][0] <= free["object_store_memory"][1]
    assert [node["is_head"] for node in system["nodes"] if node["is_alive"]] == [True]
    names = {one["name"] for one in system["processes"]}
    assert names >= {"Ray: raylet", "Ray: control (GCS)", "Board"}
    assert any(name.startswith("ServeReplica:") for name in names)
    numbers = Numbers()
    for num in (0, 1):
        numbers.put("streamrec_returns_total", num)
        ray.get(live.board.actor.tell.remote(STREAM, numbers.taken()))  # Two calls that nobody waits for may change places.
    assert 0.0 <= live.board.told_age_s(STREAM) < PATIENCE_S
    assert live.board.told_age_s("nobody") is None
    _, version = live.board.live()
    for _ in range(NUM_REPLICAS * MOST_READERS + 4):  # Those that were not noticed to go would take all places.
        reader = http.client.HTTPConnection(live.host, live.port, timeout=20)
        reader.request("GET", "/v1/live")
        answer = reader.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.readline() == b"event: hello\n"
        hello = json.loads(answer.readline().removeprefix(b"data: "))
        assert hello["may"]["move"]
        assert hello["course"]["marks"][-1]["kind"] == "return"
        assert hello["course"]["swaps"][-1]["version"] == version
        answer.readline()
        assert answer.readline() == b"event: frame\n"
        frame = json.loads(answer.readline().removeprefix(b"data: "))
        assert frame["live"]["model_version"] == version
        answer.close()
        reader.close()


def test_after_a_shutdown_nothing_is_left_and_the_python_proxy_serves_too(server):
    folder = launcher._launched.haproxy_folder
    launcher.shutdown()
    if folder is not None:
        assert not folder.exists()
        assert subprocess.run(["pgrep", "-f", str(folder)], check=False, capture_output=True).stdout == b""
    base_url = launcher.launch(parse_config({"serving": {"port": 0, "num_replicas": 1, "host": "0.0.0.0"}}), proxy="python")
    server.host, port = base_url.removeprefix("http://").split(":")
    server.port = int(port)
    board = RemoteBoard.get_or_create()
    arrays, meta = server.make_version(3, NUM_ITEMS)
    board.publish({"version": "v1"}, arrays, meta)
    deadline = time.monotonic() + PATIENCE_S
    while (answer := server.ask("POST", "/v1/recommend", {"history": ["item-1"]}))[0] != 200:
        assert time.monotonic() < deadline, answer
    assert answer[2]["source"] == "student"
    status, _, refused = server.ask("POST", "/v1/models:rollback")  # Others than this machine reach it.
    assert (status, "serving.remote_promotion" in refused["error"]["message"]) == (403, True)
