"""A replica's subscription as an object on a loop: the board is a plain object, and references are their values."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from serve.subscription import BoardSubscription
from streamrec.registry import board as board_module
from streamrec.registry.board import Board
from streamrec.registry.deltas import Delta
from streamrec.registry.version import digest_arrays
from streamrec.serving.slot import ModelSlot


class _Method:
    """A method of an actor: what it returns can be awaited, and runs if nobody does so."""

    def __init__(self, method):
        self.method = method

    def remote(self, *args):
        return asyncio.ensure_future(self.method(*args))


def actor_of(board, *methods):
    return SimpleNamespace(**{name: _Method(getattr(board, name)) for name in methods})


class Stream:
    """Publishes versions of which each follows the one before."""

    def __init__(self, board, made):
        self.board, (self.arrays, self.meta), self.num = board, made, 0

    def manifest(self):
        return {"version": f"v{self.num}", "digest": digest_arrays(self.arrays, self.meta)}

    async def whole(self):
        self.num += 1
        await self.board.publish(self.manifest(), self.arrays, self.meta)

    async def delta(self, spoilt=False):
        old, base = self.arrays, digest_arrays(self.arrays, self.meta)
        self.arrays = {name: array.copy() for name, array in old.items()}
        self.arrays["item_bias"][self.num] = np.nan if spoilt else 7.0 + self.num
        self.num += 1
        delta = Delta.between(base, old, self.manifest()["digest"], self.arrays, self.meta)
        assert await self.board.publish_delta(self.manifest(), delta, self.meta) == self.num


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    async def fetch(reference):
        return await reference()

    def put(value):
        async def get():
            return value

        return get

    monkeypatch.setattr(board_module.ray, "put", put)
    monkeypatch.setattr(board_module, "fetch", fetch)
    monkeypatch.setattr("serve.subscription.fetch", fetch)


METHODS = ("wait", "wait_from", "ack", "leave")


def play(version, test, methods=METHODS):
    async def run():
        board = Board()
        with ThreadPoolExecutor(1) as loader:
            slot = ModelSlot(digest_of=digest_arrays)
            subscription = BoardSubscription("replica", None, "default", slot, loader)
            subscription._actor = actor_of(board, *methods)
            try:
                await test(Stream(board, version(40)), subscription, slot)
            finally:
                await subscription.end()

    asyncio.run(run())


def test_a_replica_that_stops_as_soon_as_it_has_begun_leaves_nothing_at_work(serving, monkeypatch):
    replica = serving()

    async def run():
        monkeypatch.setattr(replica._slot, "settle", lambda: True)  # It never has enough.
        settling = replica._subscription._settling = asyncio.create_task(replica._subscription._settle())
        await asyncio.sleep(0)
        replica._board_task = asyncio.create_task(replica._subscription.run())  # Cancelled before it has begun.
        await replica.stop()
        assert settling.cancelled()

    asyncio.run(run())


def test_the_first_version_comes_whole_and_the_next_ones_by_what_changed(version):
    async def test(stream, subscription, slot):
        await stream.whole()
        assert await subscription.step(0)
        for _ in range(2):
            await stream.delta()
            assert await subscription.step(0)
            assert slot.current.digest == stream.manifest()["digest"]
        await stream.delta()
        await stream.delta()
        assert await subscription.step(0)
        assert slot.current.version == "v5"
        assert subscription.facts() == {"seq": 5, "whole": 1, "deltas": 4, "last_error": None}

    play(version, test)


def test_a_delta_that_can_not_be_applied_is_followed_by_the_whole_and_the_next_one_by_its_delta(version, caplog):
    async def test(stream, subscription, slot):
        await stream.whole()
        await subscription.step(0)
        await stream.delta()
        held = ModelSlot.held
        ModelSlot.held = property(lambda _: [digest_arrays(*version(40))])  # It says so, and holds another one.
        slot.current = slot.previous = None
        try:
            assert await subscription.step(0)
        finally:
            ModelSlot.held = held
        assert slot.current is None
        assert await subscription.step(0)
        assert slot.current.version == "v2"
        await stream.delta()
        assert await subscription.step(0)
        assert subscription.facts()["whole"] == 2
        assert stream.board._state.report()[1]["refused"] == {}

    play(version, test)
    assert "asking for the whole version" in caplog.text


def test_a_version_that_is_refused_by_its_delta_is_asked_for_whole_once_and_then_refused(version):
    async def test(stream, subscription, slot):
        await stream.whole()
        await subscription.step(0)
        await stream.delta(spoilt=True)
        for _ in range(3):
            await subscription.step(0)
        assert (slot.current.version, slot.counters.rejected, subscription.facts()["whole"]) == ("v1", 2, 2)
        await asyncio.sleep(0)
        assert "item_bias is not finite" in stream.board._state.report()[1]["refused"]["replica"]

    play(version, test)


def test_an_older_streamrecs_board_is_asked_for_whole_versions(version):
    async def test(stream, subscription, slot):
        for number in (1, 2):
            await stream.whole()
            assert await subscription.step(0)
            assert (slot.current.version, subscription.facts()["whole"]) == (f"v{number}", number)

    play(version, test, methods=("wait", "ack", "leave"))


def test_a_board_that_was_made_anew_is_not_asked_for_what_is_held(version):
    async def test(stream, subscription, slot):
        await stream.whole()
        await subscription.step(0)
        live = slot.current
        again = Board()
        await again.publish(stream.manifest(), stream.arrays, stream.meta)
        subscription._actor = actor_of(again, *METHODS)
        assert await subscription.step(0)
        assert slot.current is live
        assert subscription.facts()["whole"] == 1

    play(version, test)


def test_what_a_delta_leaves_for_later_is_done_behind_the_swap_in_pieces_between_which_the_next_version_comes(version, monkeypatch):
    left = {"v2": 40, "v3": 3}
    done: list[str] = []

    def settle(slot):
        name = slot.current.version
        done.append(name)
        left[name] = left.get(name, 0) - 1
        return left[name] > 0

    async def test(stream, subscription, slot):
        monkeypatch.setattr(ModelSlot, "settle", settle)
        await stream.whole()
        await subscription.step(0)
        await subscription._settling
        await stream.delta()
        await subscription.step(0)
        assert slot.current.version == "v2"
        assert done.count("v2") <= 1  # It serves before the work behind it is done.
        await stream.delta()
        await subscription.step(0)
        assert slot.current.version == "v3"
        assert done.count("v2") < 40
        await subscription._settling
        assert done[-3:] == ["v3"] * 3

    play(version, test)
