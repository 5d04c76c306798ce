"""Keys that come and go while a replica runs: what is in the file counts a look later, and what is no file of keys changes nothing."""

from __future__ import annotations

import logging
import os

import pytest
import tomli_w

from serve.access import Access, Action
from serve.http import Refusal
from serve.keys import LOOK_EVERY_S, KeyFile
from streamrec.clock import ManualClock
from streamrec.config.keys import digest_of, load_keys


def write(path, **scopes):
    """Let the keys k-NAME have these scopes, as an editor does that renames."""
    tables = {name: {"sha256": digest_of(f"k-{name}".encode()), "scopes": list(granted)} for name, granted in scopes.items()}
    path.with_suffix(".new").write_text(tomli_w.dumps(tables))
    path.with_suffix(".new").replace(path)


def scope(name):
    return {"headers": [(b"x-api-key", f"k-{name}".encode())], "path": "/v1/models"}


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "keys.toml", web=["read"], ops=["admin"])
    return tmp_path / "keys.toml"


@pytest.fixture
def access(path):
    return Access(load_keys(str(path)), clock=ManualClock())


@pytest.fixture
def key_file(path, access):
    looking = KeyFile(str(path), access.replace, ManualClock(now_ms=5))
    looking.step()
    return looking


def may(access, name, action=Action.READ):
    try:
        access.check(scope(name), action)
    except Refusal as refusal:
        return refusal.status
    return 200


def test_a_new_key_is_let_in_and_a_withdrawn_one_is_not(path, access, key_file):
    assert [may(access, name) for name in ("web", "new")] == [200, 401]
    write(path, new=["read"], ops=["read"])
    assert [may(access, name) for name in ("web", "new")] == [200, 401]
    key_file.step()
    assert [may(access, name) for name in ("web", "new")] == [401, 200]
    assert (may(access, "ops"), may(access, "ops", Action.MOVE_MODELS)) == (200, 403)


def test_a_change_that_leaves_time_and_size_as_they_were_is_seen(path, access, key_file):
    before = path.stat()
    text = path.read_text().replace(digest_of(b"k-web"), digest_of(b"k-new"))
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    key_file.step()
    assert [may(access, name) for name in ("web", "new")] == [401, 200]


@pytest.mark.parametrize("text", ["", "[web", "[web]\nsha256 = 'short'\nscopes = ['read']", "\xff", None])
def test_a_file_that_is_damaged_or_gone_changes_nothing_and_the_log_says_so_once(path, access, key_file, text, caplog):
    good = path.read_text()
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            key_file.step()
    (line,) = [record.getMessage() for record in caplog.records]
    assert (line.startswith("Keys: "), "the keys of before go on to hold" in line, str(path) in line) == (True, True, True)
    assert ([may(access, name) for name in ("web", "ops", "new")], key_file.facts()["file_is_at_fault"]) == ([200, 200, 401], True)
    path.write_text(good)
    key_file.step()
    assert key_file.facts() == {"taken_ms": 5, "file_is_at_fault": False}
    write(path, new=["read"])
    key_file.step()
    assert [may(access, name) for name in ("web", "new")] == [401, 200]


def test_what_a_key_has_used_up_of_its_rate_stays_used_up_unless_the_rate_is_another(path, access, key_file):
    def limit(rate, **others):
        tables = {"web": {"sha256": digest_of(b"k-web"), "scopes": ["read"], "rate": rate, "burst": 1}}
        path.write_text(tomli_w.dumps({**tables, **{name: {"sha256": digest_of(name.encode()), "scopes": ["read"]} for name in others}}))
        key_file.step()

    limit(0.5)
    assert [may(access, "web"), may(access, "web")] == [200, 429]
    limit(0.5, other=1)
    assert may(access, "web") == 429
    limit(5.0)
    assert may(access, "web") == 200


def test_no_request_reads_the_file(path, access, key_file):
    path.unlink()
    assert [may(access, "web") for _ in range(100)] == [200] * 100


def test_a_running_replica_looks_every_second_and_says_since_when_its_keys_hold(path, made_replica):
    replica = made_replica(keys=load_keys(str(path)), keys_file=str(path))
    write(path, new=["read"])  # Before it starts: it was given the keys of the server's start.
    waited = []
    replica._stopping.wait = waited.append
    replica._look_for_keys(0.0)
    replica._look_for_keys()
    assert waited == [0.0, LOOK_EVERY_S]
    assert replica.ask("GET", "/v1/models", headers=((b"x-api-key", b"k-web"),)).status == 401
    found = replica.ask("GET", "/v1/models", headers=((b"x-api-key", b"k-new"),))
    assert (found.status, found.body["key_file"]["file_is_at_fault"], found.body["key_file"]["taken_ms"] > 0) == (200, False, True)
