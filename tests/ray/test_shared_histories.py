"""Two replicas on Ray Serve whose histories are in one Redis."""

import http.client
import json
import time

import pytest
import ray
from redis_server import RedisServer, needs_redis

from serve import launch as launcher
from streamrec.config import parse_config
from streamrec.log.connect import local_address, open_admin
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import VersionFacts
from streamrec.storage import open_storage

pytestmark = needs_redis
PATIENCE_S = 60.0


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def ask(ray_cluster, redis, tmp_path, make_version):
    """Return a function of method, path and body that asks a server of two replicas, which have a version."""
    config = parse_config({"serving": {"port": 0, "num_replicas": 2, "histories": "redis", "redis_url": redis.url, "redis_timeout_s": 1.0}})
    address, stored = local_address(tmp_path / "log"), str(tmp_path / "registry")
    open_admin(address, config.log).ensure_topic(config.log.events_topic, 2)
    host, port = launcher.launch(config, address, registry_url=stored).removeprefix("http://").split(":")
    registry, made = Registry(open_storage(stored)), make_version(0, 50)
    manifest = registry.publish("v00000001", *made, VersionFacts(offsets={"events": {0: 0}}))
    move = registry.promote("v00000001", "a test")
    RemoteBoard.get_or_create(stored).publish(manifest.model_dump(mode="json"), *made, move.number)

    def one(method, path, value=None):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        try:
            connection.request(method, path, None if value is None else json.dumps(value).encode(), {"content-type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
            # What was on its way to a replica that was killed is answered by the proxy, in plain text.
            is_ours = answer.headers["content-type"] == "application/json"
            return answer.status, answer.headers["x-streamrec-replica"], json.loads(body) if is_ours else {"said": body.decode()}
        finally:
            connection.close()

    yield one
    launcher.shutdown()


def until_all(ask, method, path, value, is_wanted):
    """Ask until two replicas have given a wanted answer; return one by replica."""
    found, deadline = {}, time.monotonic() + PATIENCE_S
    while len(found) < 2:
        status, replica, answer = ask(method, path, value)
        assert time.monotonic() < deadline, f"still {found.keys()}, last {status} {answer} {ask('GET', '/v1/models')[2]['history_view']}"
        if is_wanted(status, answer):
            found[replica] = answer
        else:
            time.sleep(0.02)
    return found


def has_events(num):
    return lambda status, answer: status == 200 and (answer["source"], answer["user_events"]) == ("student", num)


def click(item, number):
    return {"event_id": f"e{number}", "user_id": "u", "item_id": item, "event_type": "click", "event_time": 1_764_000_000_000 + number}


def test_one_writes_all_read_and_neither_the_writers_death_nor_that_of_redis_loses_a_history(ask, redis):
    until_all(ask, "GET", "/readyz", None, lambda status, answer: status == 200)
    assert ask("POST", "/v1/events", [click("item-3", 0)])[0] == 200
    until_all(ask, "POST", "/v1/recommend", {"user_id": "u"}, has_events(1))

    models = until_all(ask, "GET", "/v1/models", None, lambda status, answer: answer["history_view"]["shared"]["writer"] in {"follow", "standby"})
    assert sorted(one["history_view"]["shared"]["writer"] for one in models.values()) == ["follow", "standby"]
    writer = next(replica for replica, one in models.items() if one["history_view"]["shared"]["writer"] == "follow")
    (name,) = (actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["name"].endswith(writer))
    ray.kill(ray.get_actor(name["name"], namespace=name["namespace"]))
    until_all(ask, "POST", "/v1/recommend", {"user_id": "u"}, has_events(1))
    while ask("POST", "/v1/events", [click("item-4", 1)])[0] != 200:
        time.sleep(0.05)
    until_all(ask, "POST", "/v1/recommend", {"user_id": "u"}, has_events(2))

    redis.kill()
    away = until_all(ask, "POST", "/v1/recommend", {"user_id": "u"}, lambda status, answer: answer["source"] == "popular")
    assert {one["why"] for one in away.values()} == {"the user's history can't be known"}
    redis.start()
    until_all(ask, "POST", "/v1/recommend", {"user_id": "u"}, has_events(2))
