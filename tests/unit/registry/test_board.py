"""The board as a plain object on an event loop; no Ray."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.errors import RegistryError
from streamrec.registry import board as board_module
from streamrec.registry.board import Board, Posted
from streamrec.registry.gate import Decision, Reason, Verdict
from streamrec.registry.registry import Registry
from streamrec.storage import LocalStorage

PATIENCE_S = 5.0


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(reference: Any) -> Any:
        return reference

    monkeypatch.setattr(board_module.ray, "put", lambda arrays: arrays)
    monkeypatch.setattr(board_module, "fetch", fetch)
    for name in ("WATCH_EVERY_S", "WATCH_LOCALLY_EVERY_S"):
        monkeypatch.setattr(board_module, name, 0.01)
    monkeypatch.setattr(board_module, "PUSH_LEAD_S", 0.02)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(LocalStorage(tmp_path))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were loaded from storage."""
    names: list[str] = []
    load = Registry.load

    def noting(self: Registry, version: str) -> Any:
        names.append(version)
        return load(self, version)

    monkeypatch.setattr(Registry, "load", noting)
    return names


def arrays_of(number: int) -> dict[str, Any]:
    return {"item_bias": np.full(3, number, np.float32)}


def promote(registry: Registry, number: int, decision: Decision | None = None) -> int:
    registry.publish(f"v{number}", arrays_of(number), {"dim": number})
    return registry.promote(f"v{number}", "a test", decision).number


def decided(number: int) -> Decision:
    facts: dict[str, Any] = {"reason": "a test", "live": None, "batch": number, "numbers": {}}
    return Decision(verdict=Verdict.PROMOTE, code=Reason.FIRST_VERSION, candidate=f"v{number}", **facts)


def push(board: Board, registry: Registry, number: int, promotion: int) -> Coroutine[Any, Any, int]:
    return board.publish(registry.manifest(f"v{number}").model_dump(mode="json"), arrays_of(number), {"dim": number}, promotion)


async def after(board: Board, posted: Posted | None) -> Posted:
    """Return what a replica gets that has ``posted``."""
    epoch, seq = (posted.epoch, posted.seq) if posted else ("", 0)
    found = await board.wait("r", epoch, seq, PATIENCE_S)
    assert found is not None
    return found


def on_a_loop(test: Callable[[Board], Coroutine[Any, Any, None]], folder: Path) -> None:
    async def run() -> None:
        await test(Board(str(folder)))

    asyncio.run(run())


def test_a_board_that_is_older_than_the_first_version_gets_it(tmp_path: Path, registry: Registry) -> None:
    async def test(board: Board) -> None:
        assert await board.live() == (0, "")
        waiting = asyncio.create_task(after(board, None))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(promote, registry, 1)
        posted = await waiting
        assert (posted.seq, posted.manifest["version"], posted.meta) == (1, "v1", {"dim": 1})
        assert await board.live() == (1, "v1")

    on_a_loop(test, tmp_path)


def test_a_promotion_and_a_rollback_by_other_processes_reach_a_waiting_replica(tmp_path: Path, registry: Registry, loaded: list[str]) -> None:
    promote(registry, 1)

    async def test(board: Board) -> None:
        first = await after(board, None)
        await asyncio.to_thread(promote, registry, 2)
        second = await after(board, first)
        await asyncio.to_thread(registry.rollback, "worse")
        third = await after(board, second)
        assert [(one.seq, one.manifest["version"]) for one in (first, second, third)] == [(1, "v1"), (2, "v2"), (3, "v1")]
        assert third.arrays == first.arrays
        marks = (await board.course())["marks"]
        assert [(mark["kind"], mark["what"]) for mark in marks] == [("promote", "v2"), ("rollback", "v1")]

    on_a_loop(test, tmp_path)
    assert loaded == ["v1", "v2"]  # The one before is still in memory.


def test_a_pushed_version_is_not_loaded_from_storage(tmp_path: Path, registry: Registry, loaded: list[str]) -> None:
    promote(registry, 1)

    async def test(board: Board) -> None:
        posted = await after(board, None)
        for number in (2, 3, 4):
            assert await push(board, registry, number, promote(registry, number, decided(number))) == number
            posted = await after(board, posted)
            assert (posted.seq, posted.manifest["version"]) == (number, f"v{number}")
            await asyncio.sleep(0.03)
        assert await board.promote_from_registry("v4") == 4

    on_a_loop(test, tmp_path)
    assert loaded == ["v1"]


def test_a_push_that_follows_a_gates_promotion_is_taken_however_long_it_takes(
    tmp_path: Path, registry: Registry, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "PUSH_LEAD_S", PATIENCE_S)
    push_1 = promote(registry, 1)

    async def test(board: Board) -> None:
        posted = await after(board, None)
        board._watching.cancel()  # type: ignore[union-attr] # Only our own looks count.
        loaded.clear()
        number = promote(registry, 2, decided(2))
        look = asyncio.create_task(board.watch_once())
        await asyncio.sleep(0.2)
        assert not look.done()
        manifest = {**registry.manifest("v2").model_dump(mode="json"), "traceparent": "a trace"}
        await board.publish(manifest, arrays_of(2), {"dim": 2}, number)
        assert await look
        posted = await after(board, posted)
        assert (posted.seq, posted.manifest["traceparent"], loaded) == (push_1 + 1, "a trace", [])

    on_a_loop(test, tmp_path)


def test_only_a_gates_promotion_waits_for_a_push_and_none_where_the_last_one_waited_in_vain(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, 1)
    waited: list[int] = []
    is_pushed = Board._is_pushed

    async def noting(board: Board) -> bool:
        waited.append(board._state.seq)
        return await is_pushed(board)

    async def test(board: Board) -> None:
        await after(board, None)
        monkeypatch.setattr(Board, "_is_pushed", noting)
        board._watching.cancel()  # type: ignore[union-attr] # Only our own looks count.
        for number, decision, lead in ((2, None, []), (3, decided(3), [2]), (4, decided(4), [])):
            waited.clear()
            promote(registry, number, decision)
            assert await board.watch_once()
            assert (await board.live(), waited) == ((number, f"v{number}"), lead)
            board._watching.cancel()  # type: ignore[union-attr]
        await push(board, registry, 4, 4)  # Late, and a sign that pushes come after all.
        promote(registry, 5, decided(5))
        assert await board.watch_once()
        assert waited == [4]
        assert [mark["what"] for mark in (await board.course())["marks"]] == ["v2"]  # What the gate does by itself is no mark.

    on_a_loop(test, tmp_path)


def test_a_push_that_is_older_than_the_alias_changes_nothing(tmp_path: Path, registry: Registry) -> None:
    promote(registry, 1)
    promote(registry, 2)

    async def test(board: Board) -> None:
        assert (await after(board, None)).seq == 2
        assert await push(board, registry, 1, 1) == 2
        assert await board.live() == (2, "v2")

    on_a_loop(test, tmp_path)


def test_polls_and_pushes_are_answered_while_a_version_loads(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(registry, 1)
    loading, may_load = threading.Event(), threading.Event()
    load = Registry.load

    async def test(board: Board) -> None:
        first = await after(board, None)

        def slow(self: Registry, version: str) -> Any:
            loading.set()
            assert may_load.wait(PATIENCE_S)
            return load(self, version)

        monkeypatch.setattr(Registry, "load", slow)
        await asyncio.to_thread(promote, registry, 2)
        assert await asyncio.to_thread(loading.wait, PATIENCE_S)
        assert await board.wait("r", first.epoch, first.seq, 0.01) is None
        registry.publish("v3", arrays_of(3), {"dim": 3})
        assert await push(board, registry, 3, registry.promote("v3", "a test").number) == 3
        may_load.set()
        await asyncio.sleep(0.05)
        assert await board.live() == (3, "v3")

    on_a_loop(test, tmp_path)


def test_a_storage_that_fails_is_named_once_for_each_reason_and_tried_again(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, 1)
    alias, reasons = Registry.alias, ["away", "away", "forbidden", "forbidden", "away"]

    async def test(board: Board) -> None:
        first = await after(board, None)

        def failing(self: Registry) -> Any:
            if reasons:
                raise RegistryError(reasons.pop(0))
            return alias(self)

        monkeypatch.setattr(Registry, "alias", failing)
        promote(registry, 2)
        assert (await after(board, first)).manifest["version"] == "v2"

    with caplog.at_level(logging.WARNING):
        on_a_loop(test, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition("(")[2].partition(")")[0] for line in said] == ["away", "forbidden", "away"]


def test_a_version_that_is_not_live_in_the_registry_is_refused(tmp_path: Path, registry: Registry) -> None:
    promote(registry, 1)

    async def test(board: Board) -> None:
        with pytest.raises(RegistryError, match=r"not the live one of the registry, got v2, allowed v1"):
            await board.promote_from_registry("v2")
        with pytest.raises(RegistryError, match="created without a registry"):
            await Board().promote_from_registry()

    on_a_loop(test, tmp_path)


def test_a_version_that_a_deletion_has_withdrawn_is_not_live_and_the_next_one_is(registry: Registry, tmp_path: Path) -> None:
    promote(registry, 1)
    registry.forget_before("v2")
    assert registry.withdraw_before("v2") == ["v1"]

    async def play() -> None:
        board = Board(str(tmp_path))
        assert await board.watch_once()
        assert await board.live() == (0, "")
        assert await board.wait("a", "", 0, 0.01) is None
        promote(registry, 2)
        assert await board.watch_once()
        assert await board.live() == (2, "v2")

    asyncio.run(play())
