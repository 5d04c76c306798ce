"""Whatever is published, lost, rolled back or restarted: each replica ends with the live version, bit for bit, and never holds a mixture."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamrec.registry import board as board_module
from streamrec.registry.alias import Move
from streamrec.registry.board import Board, Posted
from streamrec.registry.deltas import Delta, NotFollowing, apply
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import digest_arrays
from streamrec.state import Arrays

META: dict[str, Any] = {"dim": 3}


class Registry:
    """Versions and moves in memory."""

    def __init__(self) -> None:
        self.arrays: dict[str, dict[str, Any]] = {}
        self.moves: list[Move] = []
        self.loaded: list[str] = []

    def manifest(self, version: str) -> dict[str, Any]:
        return {"version": version, "digest": digest_arrays(self.arrays[version], META)}

    def move(self, version: str, action: Any = "promote", trail: tuple[str, ...] = ()) -> Move:
        self.moves.append(Move(number=len(self.moves) + 1, action=action, version=version, trail=trail, reason="a test", at_ms=0))
        return self.moves[-1]

    def alias(self) -> Move | None:
        return self.moves[-1] if self.moves else None

    def is_withdrawn(self, _: str) -> bool:
        return False

    def load_named(self, version: str) -> Any:
        self.loaded.append(version)
        manifest = SimpleNamespace(model_dump=lambda mode: self.manifest(version))
        return SimpleNamespace(manifest=manifest, arrays=copy.deepcopy(self.arrays[version]), meta=META)


class Replica:
    """Hold two versions as a model slot does, by name, digest and arrays, and ask as a subscription does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: list[tuple[str, str, dict[str, Any]]] = []
        self.at = ("", 0)
        self.wants_whole = False
        self.num_whole = 0

    def digests(self) -> list[str]:
        return [] if self.wants_whole else [digest for _, digest, _ in self.held]

    def take(self, posted: Posted, damage: Any = lambda delta: delta) -> None:
        version, digest = posted.manifest["version"], posted.manifest["digest"]
        if posted.arrays:
            self.num_whole += 1
            arrays = as_value(posted.arrays[0])
        else:
            deltas = [damage(as_value(delta)) for delta in posted.deltas]
            start = deltas[0].base if deltas else digest
            base = next((arrays for _, held, arrays in self.held if held == start), None)
            try:
                if base is None:
                    msg = "not held"
                    raise NotFollowing(msg)
                arrays = apply(base, start, deltas, digest)[0] if deltas else base
            except NotFollowing:
                self.wants_whole = True
                return
        self.held = [(version, digest, arrays), *self.held][:2]
        self.at, self.wants_whole = (posted.epoch, posted.seq), False


def as_value(reference: Any) -> Any:
    return reference.value


class Reference:
    """What the object store keeps: a copy that nobody can write to."""

    def __init__(self, value: Any) -> None:
        self.value = copy.deepcopy(value)
        arrays = self.value.change.arrays if isinstance(self.value, Delta) else self.value
        for array in arrays.values():
            array.setflags(write=False)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def fetch(reference: Reference) -> Any:
        return reference.value

    monkeypatch.setattr(board_module.ray, "put", Reference)
    monkeypatch.setattr(board_module, "fetch", fetch)
    monkeypatch.setattr(board_module, "PUSH_LEAD_S", 0.0)
    return


class _Method:
    def __init__(self, method: Any) -> None:
        self.remote = method


class InProcess(RemoteBoard):
    """A driver's handle of a board on this thread's loop."""

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(SimpleNamespace(publish=_Method(board.publish), publish_delta=_Method(board.publish_delta)))  # type: ignore[arg-type]
        self._loop = loop

    def _get(self, reference: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(reference)


class Life(RuleBasedStateMachine):
    """One registry, a board that restarts, drivers that come and go, replicas that miss things."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.registry = Registry()
        rng = np.random.default_rng(0)
        self.arrays: dict[str, Any] = {
            "vectors": rng.normal(size=(40, 3)).astype(np.float32),
            "bias": np.zeros(40, np.float32),
            "ids": np.arange(90, dtype=np.uint8),
            "generation": np.zeros(40, np.int32),
        }
        self.replicas = [Replica("first"), Replica("second")]
        self.restart_the_board()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def restart_the_board(self) -> None:
        """It forgets everything, and gets another epoch."""
        self.board = Board()
        self.board._opened = lambda: self.registry  # type: ignore[method-assign, assignment, return-value]
        self.driver = InProcess(self.board, self.loop)

    @rule(what=st.sampled_from(["nothing", "nothing", "nothing", "board", "driver", "replica"]))
    def something_is_made_anew(self, what: str) -> None:
        if what == "board":
            self.restart_the_board()
        elif what == "driver":
            self.driver = InProcess(self.board, self.loop)
        elif what == "replica":
            self.replicas = [*self.replicas, Replica(f"newcomer {len(self.registry.moves)}")][-4:]

    def grow(self, how: str, seed: int) -> str:
        rng = np.random.default_rng(seed)
        arrays = self.arrays if how == "in place" else {name: array.copy() for name, array in self.arrays.items()}
        num = len(arrays["bias"])
        rows = rng.integers(0, num, 2)
        arrays["vectors"][rows] = rng.normal(size=(2, 3)).astype(np.float32)
        if how == "more":
            arrays["vectors"] = np.concatenate([arrays["vectors"], np.full((1, 3), seed, np.float32)])
            arrays["bias"], arrays["generation"] = np.append(arrays["bias"], np.float32(seed)), np.append(arrays["generation"], np.int32(0))
            arrays["ids"] = np.append(arrays["ids"], np.uint8(seed))
        elif how == "reused":
            arrays["generation"][rows] += 1
            arrays["ids"] = np.insert(arrays["ids"], seed % 5, np.uint8(seed))
        elif how == "all":
            arrays["vectors"] = rng.normal(size=(num, 3)).astype(np.float32)
        self.arrays = arrays
        version = f"v{len(self.registry.arrays):04d}"
        self.registry.arrays[version] = {name: array.copy() for name, array in arrays.items()}
        return version

    @rule(
        how=st.sampled_from(["some", "some", "more", "reused", "all", "in place", "in place", "same"]),
        seed=st.integers(0, 200),
        is_pushed=st.sampled_from([True, True, True, False]),
    )
    def publish(self, how: str, seed: int, is_pushed: bool) -> None:
        """A version is promoted, and pushed by the driver unless its stream runs elsewhere."""
        version = self.grow(how, seed) if how != "same" or not self.registry.arrays else f"{max(self.registry.arrays)}_"
        if version.endswith("_"):
            self.registry.arrays[version] = {name: array.copy() for name, array in self.arrays.items()}
        move = self.registry.move(version)
        if is_pushed:
            assert self.driver.publish(self.registry.manifest(version), self.arrays, META, move.number) == move.number
        else:
            assert self.run(self.board.watch_once())

    @rule(how=st.sampled_from(["some", "more", "in place"]), seed=st.integers(0, 200))
    def a_stream_goes_on(self, how: str, seed: int) -> None:
        for number in range(3):
            self.publish(how, seed + number, is_pushed=True)
            self.replicas_ask(["taken"] * 4)

    @precondition(lambda self: len(self.registry.moves) > 1)
    @rule(back=st.integers(1, 4))
    def roll_back(self, back: int) -> None:
        self.registry.move(self.registry.moves[-min(back + 1, len(self.registry.moves))].version, "rollback")
        assert self.run(self.board.watch_once())

    @rule()
    def the_board_finishes_what_it_makes(self) -> None:
        if self.board._renewing is not None:
            self.run(asyncio.wait({self.board._renewing}))

    def ask(self, replica: Replica) -> Posted | None:
        found: Posted | None = self.run(self.board.wait_from(replica.name, *replica.at, replica.digests(), 0.0))
        return found

    @rule(fates=st.lists(st.sampled_from(["taken", "taken", "taken", "lost", "damaged", "silent"]), min_size=4, max_size=4))
    def replicas_ask(self, fates: list[str]) -> None:
        for replica, fate in zip(self.replicas, fates, strict=False):
            posted = self.ask(replica) if fate != "silent" else None
            before = list(replica.held)
            if posted is not None and fate == "taken":
                replica.take(posted)
            elif posted is not None and fate == "damaged" and posted.deltas:
                replica.take(posted, lambda delta: replace(delta, digest=delta.digest[::-1]))
                assert replica.held == before
                assert replica.wants_whole

    @rule()
    def an_older_replica_asks(self) -> None:
        posted: Posted | None = self.run(self.board.wait("old", "", 0, 0.0))
        if posted is not None:
            assert digest_arrays(as_value(posted.arrays[0]), META) == posted.manifest["digest"]

    @invariant()
    def no_replica_holds_a_mixture(self) -> None:
        for replica in getattr(self, "replicas", []):
            assert all(digest_arrays(arrays, META) == digest for _, digest, arrays in replica.held)

    def teardown(self) -> None:
        if not hasattr(self, "registry"):
            return
        if self.registry.moves:
            assert self.run(self.board.watch_once())
            live = self.registry.moves[-1].version
            for replica in self.replicas:
                for _ in range(2):  # The second time for the whole.
                    if (posted := self.ask(replica)) is not None:
                        replica.take(posted)
                assert replica.held[0][0] == live
                assert digest_arrays(replica.held[0][2], META) == digest_arrays(self.registry.arrays[live], META)
        self.the_board_finishes_what_it_makes()
        self.loop.close()


Life.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


@pytest.fixture
def life() -> Iterator[Life]:
    made = Life()
    made.begin()
    yield made
    made.teardown()


def test_a_small_change_reaches_whoever_is_up_to_date_as_a_delta_and_who_missed_some_as_several(life: Life) -> None:
    life.publish("some", 0, is_pushed=True)
    first, second = life.replicas
    for replica in life.replicas:
        posted = life.ask(replica)
        assert posted is not None
        replica.take(posted)
    for seed in (1, 2, 3):
        life.publish("some", seed, is_pushed=True)
        posted = life.ask(first)
        assert posted is not None
        assert (posted.arrays, len(posted.deltas)) == ([], 1)
        first.take(posted)
    posted = life.ask(second)
    assert posted is not None
    assert (posted.arrays, len(posted.deltas)) == ([], 3)
    assert life.registry.loaded == []


def test_a_rollback_needs_nothing_but_a_name_and_the_next_delta_follows_what_the_board_was_given(life: Life) -> None:
    replica = life.replicas[0]
    for seed in (0, 1):
        life.publish("some", seed, is_pushed=True)
        replica.take(life.ask(replica))  # type: ignore[arg-type]
    life.roll_back(1)
    posted = life.ask(replica)
    assert posted is not None
    assert (posted.manifest["version"], posted.arrays, posted.deltas) == ("v0000", [], ())
    replica.take(posted)
    life.publish("some", 2, is_pushed=True)
    posted = life.ask(replica)
    assert posted is not None
    assert len(posted.deltas) == 1
    assert life.registry.loaded == []


def test_an_older_streamrecs_board_gets_the_whole_each_time(life: Life) -> None:
    life.driver.actor = SimpleNamespace(publish=_Method(life.board.publish))  # type: ignore[assignment]
    for seed in (0, 1):
        life.publish("some", seed, is_pushed=True)
        assert life.board._holding.deltas([life.registry.manifest("v0000")["digest"]], "another") is None
    assert life.run(life.board.live()) == (2, "v0001")


def test_a_delta_whose_driver_was_wrong_is_given_out_whole_to_nobody_and_mended_by_the_registry(life: Life) -> None:
    life.publish("some", 0, is_pushed=True)
    old, version = life.registry.manifest("v0000"), life.grow("some", 1)
    other: Arrays = {**life.arrays, "bias": life.arrays["bias"] + 1}
    manifest = life.registry.manifest(version)
    wrong = Delta.between(old["digest"], other, manifest["digest"], other, META)
    assert wrong is not None
    assert life.run(life.board.publish_delta(manifest, wrong, META, life.registry.move(version).number)) == 2
    newcomer = Replica("newcomer")
    assert life.ask(newcomer) is None
    posted = life.ask(newcomer)
    assert posted is not None
    newcomer.take(posted)
    assert digest_arrays(newcomer.held[0][2], META) == manifest["digest"]
    assert life.registry.loaded == [version]
