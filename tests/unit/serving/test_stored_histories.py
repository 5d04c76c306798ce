from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import replace

import orjson
import pyarrow as pa
import pytest
import ray
from redis_server import RedisServer, needs_redis

from serve.app import app
from serve.histories import LogPlace, SharedHistories
from serve.launch import launch
from streamrec.clock import ManualClock
from streamrec.config import DEFAULT_MEANINGS, EventsConfig, parse_config
from streamrec.errors import BrokerUnavailable, ConfigError, Fenced, StorageError
from streamrec.events.codec import EventCodec
from streamrec.features.dedupe import Dedupe
from streamrec.features.tombstones import Tombstones
from streamrec.log.base import Record
from streamrec.log.connect import local_address
from streamrec.log.memory import MemoryLog, MemoryTail
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lineage import lineage_of
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.history_writer import CATCH_UP, STANDBY, HistoryWriter, LogEnds, StoredView
from streamrec.serving.stored_histories import WRITER, Entries, StoredHistories, look_at_redis
from streamrec.storage import LocalStorage

pytestmark = needs_redis
TOPIC = "events"
LENGTH = 5


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def store_of(redis, request):
    made = []

    def make(lineage=None, url=redis.url, family="", **settings):
        config = parse_config({"serving": {"redis_url": url, "redis_timeout_s": 2.0, **settings}}).serving
        made.append(StoredHistories(config, lineage or request.node.name, family))
        return made[-1]

    yield make
    for store in made:
        with contextlib.suppress(StorageError):
            store.leave()


def read(store, asked):
    """Run what asks a store, beside the thread that answers."""
    done = threading.Event()

    def answer():
        while not done.is_set():
            store.answer_reads(0.01)

    thread = threading.Thread(target=answer)
    thread.start()

    async def play():
        return await asked()

    try:
        return asyncio.run(play())
    finally:
        done.set()
        thread.join()


@pytest.fixture
def store(store_of):
    made = store_of()
    assert made.hold_lease()
    return made


def make_view(kind=HistoryView, **more):
    users = 10**9
    codec = EventCodec(EventsConfig())
    return kind(LENGTH, users, DEFAULT_MEANINGS, codec, ManualClock(10**12), tombstones=Tombstones(b"key"), dedupe=Dedupe(10_000), **more)


def columns_of(view):
    """Return what a checkpoint would hold of a view."""
    users, indptr, codes, times = list(view.table.entries), [0], b"", b""
    for mine, when in view.table.entries.values():
        codes, times = codes + mine, times + when
        indptr.append(len(codes) // 4)
    columns = {"indptr": pa.array(indptr).to_numpy(), "item_codes": memoryview(codes).cast("i"), "times": memoryview(times).cast("q")}
    arrays = {name: pa.array(list(values)).to_numpy() if len(values) else pa.array([], pa.int64()).to_numpy() for name, values in columns.items()}
    marks = (view.tombstones.snapshot(),), (view.dedupe.snapshot(),)
    return HistoryColumns(users, arrays["indptr"], arrays["item_codes"].astype("i4"), list(view.table.item_ids), dict(view.offsets), arrays["times"],
                          marks[0], event_ids=marks[1])  # fmt: skip


def some_events(rng, num):
    """Return events that repeat, disagree with their order, delete and take back."""
    made = []
    for number in range(num):
        user, item, time = f"u{rng.randrange(9)}", f"i{rng.randrange(7)}", 1000 + number * 5 + rng.randrange(-40, 40)
        kind = rng.random()
        if made and kind < 0.12:
            made.append(rng.choice(made))
        elif kind < 0.2:
            made.append({"kind": "deletion", "event_id": f"d{number}", "user_id": user, "event_time": time})
        else:
            event_type = "remove" if kind < 0.3 else "click"
            made.append({"event_id": f"e{number}", "user_id": user, "item_id": item, "event_type": event_type, "event_time": time})
    return made


def fill(log, events):
    log.append(TOPIC, [Record(key=event["user_id"].encode(), value=orjson.dumps(event)) for event in events])


def cuts_of(log, size):
    """Return the log in rounds of so many rows a partition."""
    ends, rounds, at = log.latest(TOPIC), [], dict.fromkeys(log.latest(TOPIC), 0)
    while at != ends:
        then = {partition: min(end, at[partition] + size) for partition, end in ends.items()}
        rounds.append(LogEnds(lambda: log, TOPIC).between(at, then))
        at = then
    return rounds


def held(view):
    items = view.table.item_ids
    found = {}
    for user, (codes, times) in view.table.entries.items():
        if codes:
            found[user] = Entries(tuple(items[code][1] for code in memoryview(codes).cast("i")), tuple(memoryview(times).cast("q")))
    return found


@pytest.mark.parametrize("seed", range(25))
def test_whoever_takes_over_from_whatever_checkpoint_redis_holds_what_a_replica_would(store_of, seed):
    rng = random.Random(seed)
    log, store = MemoryLog(), store_of(f"lineage {seed}")
    log.ensure_topic(TOPIC, 2)
    fill(log, some_events(rng, 120))
    rounds, reference = cuts_of(log, 4), make_view()
    checkpoints, expected = [columns_of(reference)], []
    for rows in rounds:
        reference.apply(rows)
        checkpoints.append(columns_of(reference))
    expected = held(reference)
    assert expected

    at, view, num_takeovers = 0, None, 0
    while view is None or at < len(rounds):
        if view is None or rng.random() < 0.15:
            assert store.hold_lease()
            at, view = min(len(rounds), max(0, at + rng.randrange(-6, 4))), make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))
            view.load(checkpoints[at])
            num_takeovers += 1
        else:
            view.apply(rounds[at])
            at += 1
    view.apply(rounds[0].slice(0, 0))  # A poll to which nothing came.
    assert not view.is_catching_up
    assert store.offsets() == log.latest(TOPIC)
    users = [("default", f"u{number}") for number in range(9)]
    assert {user: entries for user, entries in store.fetch(users).items() if entries.item_ids} == expected
    assert num_takeovers > 1 or seed


def test_a_store_that_is_further_than_the_checkpoint_is_not_set_back(store):
    log, view = MemoryLog(), make_view()
    log.ensure_topic(TOPIC, 1)
    fill(log, [{"event_id": f"e{number}", "user_id": "u", "item_id": f"i{number}", "event_type": "click", "event_time": 1000} for number in range(4)])
    first, second = cuts_of(log, 2)
    view.apply(first)
    old = columns_of(view)
    view.apply(second)
    begun = make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))
    begun.load(columns_of(view))
    assert store.fetch([("default", "u")])[("default", "u")].item_ids == ("i0", "i1", "i2", "i3")
    taken_over = make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))
    taken_over.load(old)
    assert taken_over.is_catching_up
    assert store.fetch([("default", "u")])[("default", "u")].item_ids == ("i0", "i1", "i2", "i3")
    taken_over.apply(second)
    assert not taken_over.is_catching_up
    assert store.fetch([("default", "u")])[("default", "u")].item_ids == ("i0", "i1", "i2", "i3")


def test_where_the_log_no_longer_reaches_back_all_is_written_anew_and_nobody_stays_who_was_deleted(store):
    log, view = MemoryLog(), make_view()
    log.ensure_topic(TOPIC, 1)
    clicks = [{"event_id": f"e{name}", "user_id": name, "item_id": "i", "event_type": "click", "event_time": 1000} for name in "ab"]
    fill(log, [*clicks, {"kind": "deletion", "event_id": "d", "user_id": "a", "event_time": 2000}])
    first, second = cuts_of(log, 2)
    view.apply(first)
    make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC)).load(columns_of(view))
    a, b = ("default", "a"), ("default", "b")
    assert all(entries.item_ids == ("i",) for entries in store.fetch([a, b]).values())
    view.apply(second)
    log.drop_before(TOPIC, {0: 3})
    make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC)).load(columns_of(view))
    assert [entries.item_ids for entries in store.fetch([a, b]).values()] == [(), ("i",)]


def test_a_deletion_reaches_older_lineages_of_the_state_and_no_other_state(store_of):
    user = ("default", "u")
    store, older, other = store_of("new", family="ours"), store_of("old", family="ours"), store_of("theirs", family="theirs")
    for one in (older, other):
        assert one.hold_lease()
        one.write({user: Entries(("i",), (1,))}, None, {})
    assert store.hold_lease()
    log = MemoryLog()
    log.ensure_topic(TOPIC, 1)
    view = make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))
    view.load(replace(columns_of(make_view()), offsets={}))
    click = {"event_id": "c", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 1000}
    fill(log, [click, {**click, "event_id": "r", "event_type": "return", "event_time": 1500}])
    back, _ = cuts_of(log, 2), fill(log, [{"kind": "deletion", "event_id": "d", "user_id": "u", "event_time": 2000}])
    view.apply(*back)
    assert store.fetch([user])[user] == Entries()
    assert older.fetch([user])[user] == Entries(("i",), (1,))  # All taken back is no deletion.
    view.apply(cuts_of(log, 3)[0])
    assert older.fetch([user])[user] == Entries()
    assert other.fetch([user])[user] == Entries(("i",), (1,))


def test_only_who_has_the_lease_and_knows_where_the_store_is_writes(store_of, store):
    user, rival = ("default", "u"), store_of()
    store.write({user: Entries(("i",), (1,))}, None, {0: 1})
    assert not rival.hold_lease()
    with pytest.raises(Fenced):
        rival.write({user: Entries(("other",), (2,))}, {0: 1}, {0: 2})
    with pytest.raises(Fenced):
        store.write({user: Entries(("other",), (2,))}, {0: 0}, {0: 2})
    assert store.fetch([user])[user] == Entries(("i",), (1,))
    assert store.offsets() == {0: 1}
    assert store.hold_lease()  # It was only wrong about the place.
    store.leave()
    assert rival.hold_lease()
    assert not store_of().hold_lease()
    rival.write({user: Entries(("other",), (2,))}, {0: 1}, {0: 2})
    assert rival.fetch([user])[user] == Entries(("other",), (2,))


def test_ids_that_look_like_others_stay_apart(store):
    users = [("a", "b:c"), ("a:b", "c"), ("1:a", "b"), ("a", "1:b"), ("default", "offsets"), ("default", "writer"), ("", "x"), ("a", "")]
    store.write({user: Entries((str(number),), (number,)) for number, user in enumerate(users)}, None, {0: 7})
    assert [entries.item_ids for entries in store.fetch(users).values()] == [(str(number),) for number in range(len(users))]
    assert store.offsets() == {0: 7}


def test_a_history_that_is_not_ours_is_an_error_that_says_where_it_lies(store, redis):
    import redis as client  # noqa: PLC0415 - an extra

    store.write({("default", "u"): Entries(("i",), (1,))}, None, {})
    (key,) = (key for key in client.Redis.from_url(redis.url).scan_iter() if key.endswith(b":7:default:u") and key.startswith(store._prefix.encode()))
    client.Redis.from_url(redis.url).set(key, b"\x80\x04cos\nsystem\n")
    with pytest.raises(StorageError, match=r"can't be read.*database of its own"):
        store.fetch([("default", "u")])


def test_what_is_not_ours_of_one_user_or_of_the_place_spoils_no_other_answer_and_ends_no_thread(store, redis):
    import redis as client  # noqa: PLC0415 - an extra

    good, bad = ("default", "good"), ("default", "bad")
    store.write({good: Entries(("i",), (1,)), bad: Entries(("i",), (1,))}, None, {})
    admin = client.Redis.from_url(redis.url)
    admin.set(store._key(store._prefix, bad), b"garbage")

    async def both():
        return await asyncio.gather(store.read(*good), store.read(*bad), return_exceptions=True)

    answer, refused = read(store, both)
    assert answer[0].item_ids == ("i",)
    assert "can't be read, got 7 bytes of something else" in str(refused)
    admin.set(store._ends, b"garbage")
    for found in read(store, both):
        assert isinstance(found, StorageError)
    admin.set(store._ends, b"{}")
    assert read(store, both)[0][0].item_ids == ("i",)


def test_those_who_ask_while_others_are_asked_for_share_one_command(store, redis):
    import redis as client  # noqa: PLC0415 - an extra

    store.write({("default", f"u{number}"): Entries((f"i{number}",), (1,)) for number in range(300)}, None, {})
    admin = client.Redis.from_url(redis.url)
    admin.config_resetstat()

    async def crowd():
        return await asyncio.gather(*(store.read("default", f"u{number}") for number in range(400)))

    found = read(store, crowd)
    assert [entries.item_ids for entries, _ in found] == [(f"i{number}",) for number in range(300)] + [()] * 100
    assert admin.info("commandstats")["cmdstat_mget"]["calls"] <= 20


def test_one_who_leaves_does_not_take_the_others_answers(store):
    store.write({("default", "u"): Entries(("i",), (1,))}, None, {})

    async def play():
        first, *others = [asyncio.create_task(store.read("default", "u")) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.gather(*others)

    assert {entries.item_ids for entries, _ in read(store, play)} == {("i",)}


def test_what_nobody_filled_and_what_does_not_answer_is_said(store_of, tmp_path):
    empty = store_of("nobody's lineage")
    with pytest.raises(StorageError, match=r"has none yet.*wait until"):
        read(empty, lambda: empty.read("default", "u"))
    gone = RedisServer(tmp_path)
    gone.kill()
    away = store_of(url=gone.url, redis_timeout_s=0.2)
    with pytest.raises(StorageError, match=r"Redis does not answer, got .*serving\.redis_url"):
        read(away, lambda: away.read("default", "u"))
    assert away.num_unread == 1
    with pytest.raises(StorageError, match="does not answer"):
        away.hold_lease()
    assert not away.holds_lease


def test_a_redis_that_hangs_is_waited_for_no_longer_than_is_set(store_of):
    import socket  # noqa: PLC0415 - of one test

    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = store_of(url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", redis_timeout_s=0.05)
        with pytest.raises(StorageError, match="does not answer in time"):
            read(hung, lambda: asyncio.wait_for(hung.read("default", "u"), 5))


def test_a_password_comes_from_a_file_or_the_environment_and_a_wrong_one_is_refused(store_of, tmp_path, monkeypatch):
    server = RedisServer(tmp_path, "--requirepass", "not in any dump")
    try:
        with pytest.raises(StorageError, match="Redis refuses"):
            store_of(url=server.url).hold_lease()
        (tmp_path / "password").write_text("not in any dump\n")
        assert store_of(url=server.url, redis_password_file=str(tmp_path / "password")).hold_lease()
        monkeypatch.setenv("STREAMREC_REDIS_PASSWORD", "not in any dump")
        other = store_of("another", url=server.url)
        assert other.hold_lease()
        assert "not in any dump" not in f"{vars(other)['address']}{other.last_error}"
    finally:
        server.kill()
    with pytest.raises(ConfigError, match=r"password's file can't be read.*redis_password_file"):
        store_of(redis_password_file=str(tmp_path / "nowhere"))


class Away(MemoryLog):
    """A log that does not answer."""

    def latest(self, topic):
        what = "Broker: away"
        raise BrokerUnavailable(what)

    def earliest(self, topic):
        return self.latest(topic)


def writer_of(store, log, load=lambda: None, heard=lambda rows: None):
    def view():
        return make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))

    return HistoryWriter(store, view, load, lambda offsets: MemoryTail(log, TOPIC, {**log.earliest(TOPIC), **offsets}), heard, poll_s=0.0)


def test_a_writer_stands_by_takes_over_and_begins_again_where_it_was_fenced(store_of, store):
    log, heard = MemoryLog(), []
    log.ensure_topic(TOPIC, 1)
    first, second = writer_of(store, log, heard=heard.append), writer_of(store_of(), log)
    assert not second.step()
    assert second.state == STANDBY
    for _ in range(3):
        first.step()
    assert first.state == "follow"
    fill(log, [{"event_id": "e1", "user_id": "u", "item_id": "i1", "event_type": "click", "event_time": 1000}])
    first.step()
    user = ("default", "u")
    assert store.fetch([user])[user].item_ids == ("i1",)
    assert sum(rows.num_rows for rows in heard) == 1

    store._client(WRITER).delete(store._lease)  # It was away too long, and knows nothing of it.
    assert second._store.hold_lease()
    for _ in range(3):
        second.step()
    fill(log, [{"event_id": "e2", "user_id": "u", "item_id": "i2", "event_type": "click", "event_time": 2000}])
    assert not first.step()
    assert first.state == STANDBY
    second.step()
    assert store.fetch([user])[user].item_ids == ("i1", "i2")


def test_a_redis_that_lost_all_is_filled_again(redis, store):
    log, view = MemoryLog(), make_view()
    log.ensure_topic(TOPIC, 1)
    fill(log, [{"event_id": f"e{number}", "user_id": "u", "item_id": f"i{number}", "event_type": "click", "event_time": 1000} for number in range(2)])
    view.apply(*cuts_of(log, 1)[:1])
    writer = writer_of(store, log, lambda: columns_of(view))
    for _ in range(3):
        writer.step()
    store._client(WRITER).flushdb()
    fill(log, [{"event_id": "e2", "user_id": "u", "item_id": "i2", "event_type": "click", "event_time": 1000}])
    assert not writer.step()
    assert store.hold_lease()
    for _ in range(3):
        writer.step()
    user = ("default", "u")
    assert store.fetch([user])[user].item_ids == ("i0", "i1", "i2")
    assert writer.num_begun == 2
    store._client(WRITER).flushdb()
    assert store.hold_lease()  # Before anybody has noticed, and no event comes.
    for _ in range(4):
        writer.step()
    assert store.fetch([user])[user].item_ids == ("i0", "i1", "i2")
    assert store.hold_lease()
    writer.step()
    assert writer.num_begun == 3


def test_while_the_log_is_away_redis_gets_what_the_checkpoint_has_and_the_log_when_it_is_back(store):
    log, view, loads = MemoryLog(), make_view(), []
    log.ensure_topic(TOPIC, 1)
    fill(log, [{"event_id": f"e{number}", "user_id": "u", "item_id": f"i{number}", "event_type": "click", "event_time": 1000} for number in range(2)])
    first, _ = cuts_of(log, 1)
    view.apply(first)
    log.__class__ = Away

    def load():
        loads.append(1)
        return columns_of(view)

    writer, user = writer_of(store, log, load), ("default", "u")
    for _ in range(20):
        writer.step()
    assert store.fetch([user])[user].item_ids == ("i0",)
    assert store.offsets() == {0: 1}
    log.__class__ = MemoryLog
    for _ in range(4):
        writer.step()
    assert store.fetch([user])[user].item_ids == ("i0", "i1")
    assert loads == [1]  # A checkpoint of millions of users is not read twice a second.
    assert writer.state == "follow"


class Place:
    """Where a state is that has its first commit when it is asked for the second time."""

    family = "ours"

    def __init__(self):
        self.lineages = iter([None, "ours"])

    def lineage(self):
        return next(self.lineages)


def test_histories_wait_for_the_first_commit_and_say_so(redis):
    config = parse_config({"serving": {"redis_url": redis.url}}).serving
    shared = SharedHistories(config, Place(), make_view(), lambda store: writer_of(store, MemoryLog()))
    assert shared.facts()["last_error"] is None
    shared.keep_lease()
    assert "none to read" in asyncio.run(shared.known("default", "u")).missing
    assert (shared.facts()["writer"], "nothing has been committed yet" in shared.facts()["last_error"]) == (None, True)
    shared.keep_lease()
    assert shared.facts()["writer"] == STANDBY
    missing = read(shared._store, lambda: shared.known("default", "u")).missing
    assert "has none yet" in missing
    assert "127.0.0.1" not in missing  # Clients are not told where it is.
    shared.stop_writing()


def test_a_store_that_is_behind_what_the_replica_has_read_says_so_and_who_was_deleted_is_gone_at_once(redis):
    user = ("default", "u")
    config, mine = parse_config({"serving": {"redis_url": redis.url}}).serving, make_view(keeps_histories=False)
    place = Place()
    place.lineages = iter(["behind"])
    shared = SharedHistories(config, place, mine, lambda store: writer_of(store, MemoryLog()))
    shared.keep_lease()
    shared._store.write({user: Entries(("i", "j"), (1000, 5000))}, None, {0: 1})

    def known():
        found = read(shared._store, lambda: shared.known(*user))
        return found.item_ids, found.missing

    mine.offsets = {0: 1}
    shared.note()
    assert known() == (("i", "j"), "")
    log = MemoryLog()
    log.ensure_topic(TOPIC, 1)
    fill(log, [{"event_id": "e", "user_id": "v", "item_id": "i", "event_type": "click", "event_time": 1}])
    fill(log, [{"kind": "deletion", "event_id": "d", "user_id": "u", "event_time": 2000}])
    mine.apply(*cuts_of(log, 2))
    assert known() == (("j",), "")  # What came after the deletion, and a moment of being behind is none.
    shared.keep_lease()
    assert known() == (("j",), "")
    shared.keep_lease()
    assert known() == (("j",), "Histories: Redis is behind the log by more than a second")
    assert (shared.facts()["is_behind"], shared.facts()["unread"]) == (True, 1)
    shared._store.write({}, {0: 1}, {0: 2})
    assert known() == (("j",), "")
    shared.stop_writing()


def test_who_can_wait_for_so_long_only_gets_no_more(redis):
    config = parse_config({"serving": {"redis_url": redis.url}}).serving
    place = Place()
    place.lineages = iter(["slow"])
    shared = SharedHistories(config, place, make_view(), lambda store: writer_of(store, MemoryLog()))
    shared.keep_lease()
    found = asyncio.run(shared.known("default", "u", 0.01))  # Nobody answers.
    assert found.missing == "Histories: there was no time to ask Redis"
    shared.stop_writing()


def test_what_can_be_read_and_not_written_is_told_of(store_of, tmp_path):
    server = RedisServer(tmp_path)
    try:
        config = parse_config({"serving": {"redis_url": server.url}}).serving
        assert look_at_redis(config).version
        StoredHistories(config, "x")._client(WRITER).execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StorageError, match="read only replica"):
            look_at_redis(config)
    finally:
        server.kill()


def test_a_password_that_was_changed_is_read_anew_and_not_one_answer_is_lost(store_of, tmp_path):
    import redis as client  # noqa: PLC0415 - an extra

    server, place = RedisServer(tmp_path, "--requirepass", "old"), tmp_path / "password"
    place.write_text("old")
    store = store_of(url=server.url, redis_password_file=str(place))

    def change(old, new):
        admin = client.Redis.from_url(server.url, password=old)
        place.write_text(new)
        admin.config_set("requirepass", new)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.close()

    try:
        assert store.hold_lease()
        store.write({("default", "u"): Entries(("i",), (1,))}, None, {})
        assert read(store, lambda: store.read("default", "u"))[0].item_ids == ("i",)
        change("old", "new")
        assert read(store, lambda: store.read("default", "u"))[0].item_ids == ("i",)
        assert store.read_error == ""
        for _ in range(3):  # Once to be refused, once more by the file.
            with contextlib.suppress(StorageError):
                store.hold_lease()
        assert store.holds_lease
    finally:
        server.kill()


def test_a_topic_that_was_made_anew_is_followed_from_what_it_gets(store):
    old, view = MemoryLog(), make_view()
    old.ensure_topic(TOPIC, 1)
    fill(old, [{"event_id": f"e{number}", "user_id": "u", "item_id": f"i{number}", "event_type": "click", "event_time": 1000} for number in range(4)])
    view.apply(*cuts_of(old, 4))
    make_view(StoredView, store=store, log=LogEnds(lambda: old, TOPIC)).load(columns_of(view))
    anew = MemoryLog()
    anew.ensure_topic(TOPIC, 1)
    fill(anew, [{"event_id": "f0", "user_id": "v", "item_id": "j0", "event_type": "click", "event_time": 1000}])
    taken_over = make_view(StoredView, store=store, log=LogEnds(lambda: anew, TOPIC))
    taken_over.load(replace(columns_of(view), offsets={0: 0}))
    taken_over.apply(*cuts_of(anew, 1))
    assert not taken_over.is_catching_up
    assert store.fetch([("default", "v")])[("default", "v")].item_ids == ("j0",)


def test_a_writer_keeps_nobody_and_tells_of_events_when_redis_has_them(store_of, store):
    log, view, heard = MemoryLog(), make_view(), []
    log.ensure_topic(TOPIC, 1)
    fill(log, [{"event_id": f"e{number}", "user_id": f"u{number}", "item_id": "i", "event_type": "click", "event_time": 1000} for number in range(4)])
    first, second = cuts_of(log, 2)
    view.apply(first)
    old = columns_of(view)
    view.apply(second)
    begun = make_view(StoredView, store=store, log=LogEnds(lambda: log, TOPIC))
    begun.load(old)
    begun.apply(second)
    assert len(begun) == 0
    writer = writer_of(store, log, lambda: old, heard.append)
    for _ in range(2):
        writer.step()
    assert writer.state == CATCH_UP
    writer.step()
    assert writer.state == "follow"
    fill(log, [{"event_id": "e9", "user_id": "u9", "item_id": "i", "event_type": "click", "event_time": 1000}])
    writer.step()
    assert [rows["offset"].to_pylist() for rows in heard if rows.num_rows] == [[2, 3], [4]]


def test_a_server_without_the_extra_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setattr("streamrec.serving.redis_connection.HAS_REDIS", False)
    (tmp_path / "streamrec.toml").write_text('[serving]\nhistories = "redis"\n')
    for start in (
        lambda: launch(parse_config({"serving": {"histories": "redis"}})),
        lambda: app({"config": str(tmp_path / "streamrec.toml"), "log": "none"}),
    ):
        with pytest.raises(ConfigError, match=r"got serving\.histories = 'redis', run `pip install 'streamrec\[redis\]'` on each node"):
            start()
    assert not ray.is_initialized()


def test_a_server_whose_redis_is_away_says_so_and_starts(monkeypatch, caplog):
    class StartedError(Exception):
        pass

    def begin(*_):
        raise StartedError

    monkeypatch.setattr("serve.launch.check_port", begin)
    with pytest.raises(StartedError):
        launch(parse_config({"serving": {"histories": "redis", "redis_url": "redis://127.0.0.1:1/0"}}))
    assert "Redis does not answer, got redis://127.0.0.1:1/0" in caplog.text
    assert "until then answers know no user" in caplog.text


@pytest.mark.parametrize("setting", ["redis_password_file", "redis_ca_file"])
def test_a_file_that_is_not_there_is_named_before_the_start(setting):
    with pytest.raises(ConfigError, match=rf"got /nowhere/file.*correct serving\.{setting}"):
        launch(parse_config({"serving": {"histories": "redis", "redis_url": "rediss://127.0.0.1:1/0", setting: "/nowhere/file"}}))


@pytest.mark.parametrize(
    "url",
    ["redis://h/0?password=hidden", "redis://u:hidden@h", "http://h", "redis://h:99999", "redis://", "redis://h/x", "redis://h/0/1"],
)
def test_an_address_that_no_redis_has_is_refused_and_no_password_shown(url):
    with pytest.raises(ConfigError, match=r"serving\.redis_url is not valid, got .*, allowed redis://HOST:PORT/NUMBER") as refused:
        parse_config({"serving": {"redis_url": url}})
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("command", ["mget", "get", "set", "del", "sadd", "smembers", "scan", "pexpire", "eval"])
def test_a_user_of_redis_that_may_not_do_something_is_found_before_the_start(redis, command):
    import redis as client  # noqa: PLC0415 - an extra

    admin = client.Redis.from_url(redis.url)
    rights = ["+get", "+set", "+del", "+mget", "+sadd", "+smembers", "+scan", "+pexpire", "+eval", "+info", "+@connection"]
    admin.execute_command("ACL", "SETUSER", "few", "on", "nopass", "~streamrec:*", "resetchannels", *rights)
    config = parse_config({"serving": {"redis_url": redis.url.replace("redis://", "redis://few@")}}).serving
    assert look_at_redis(config).version
    admin.execute_command("ACL", "SETUSER", "few", f"-{command}")
    with pytest.raises(StorageError, match="Redis refuses"):
        look_at_redis(config)
    admin.execute_command("ACL", "DELUSER", "few")


def test_two_states_that_two_machines_call_the_same_have_nothing_in_common(tmp_path):
    state = tmp_path / "state"
    places, config = [], parse_config({})
    for name in ("one", "two"):
        (state / "checkpoint").mkdir(parents=True)
        CheckpointStore(LocalStorage(state / "checkpoint")).acquire()
        lineage_of(str(state))
        place = LogPlace(local_address(tmp_path / "log"), config.log, str(state))
        places.append((place.lineage(), place.family))
        state.rename(tmp_path / name)
    assert len({family for _, family in places}) == 2
    assert [lineage for lineage, _ in places] == [family for _, family in places]
