from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from streamrec import local_node
from streamrec.code_version import code_version
from streamrec.errors import OperatorError
from streamrec.pipeline.ray_workers import RayPending, RayWorker, wait_until_adopted


def failing_with(cause: Exception) -> Any:
    """Raise as Ray does: an error of a class made from its own and the cause's."""

    def get(_: Any, timeout: float | None = None) -> Any:
        raise RayTaskError("call", "traceback", cause).as_instanceof_cause()

    return get


def test_what_an_actor_refuses_is_raised_as_it_is_so_that_the_driver_sees_that_trying_again_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", failing_with(OperatorError("Actor: the call is not its owner's")))
    with pytest.raises(OperatorError) as raised:
        RayPending(ref=None).result()  # type: ignore[arg-type]
    assert type(raised.value) is OperatorError


def test_an_error_that_is_not_ours_stays_as_ray_raises_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", failing_with(ValueError("a bug")))
    with pytest.raises(RayTaskError, match="traceback"):
        RayPending(ref=None).result()  # type: ignore[arg-type]


def test_an_actor_that_does_not_answer_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [GetTimeoutError(), GetTimeoutError(), code_version()] * 2

    def get(_: Any, timeout: float | None = None) -> Any:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    handle: Any = SimpleNamespace(adopt=SimpleNamespace(remote=lambda *_: None), call=SimpleNamespace(remote=lambda *_: None))
    worker = RayWorker(handle, 1, dict, name="streamrec-1-student")
    worker.adopted()
    assert worker.submit(dict.copy).result() == code_version()
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(" after 20 s")[0] for text in told] == [
        "Ray: still waiting for streamrec-1-student to be built",
        "Ray: still waiting for copy of streamrec-1-student",
    ]


def test_an_actor_of_an_own_cluster_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> None:
        what = "Ray: raylet of this process's own cluster has ended"
        raise OperatorError(what)

    def get(_: Any, timeout: float | None = None) -> Any:
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(local_node, "check", ended)
    with pytest.raises(OperatorError, match="own cluster has ended"):
        RayPending(ref=None).result()  # type: ignore[arg-type]


def test_an_actor_that_died_is_raised_with_what_was_wanted_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_: Any, timeout: float | None = None) -> Any:
        raise RayActorError

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(RayActorError) as raised:
        RayPending(None, "learn of streamrec-student").result()  # type: ignore[arg-type]
    assert raised.value.__notes__ == ["wanted: learn of streamrec-student"]


def test_what_an_actor_itself_waited_for_in_vain_is_an_error_and_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", failing_with(GetTimeoutError()))
    with pytest.raises(RayTaskError):
        RayPending(ref=None).result()  # type: ignore[arg-type]


def test_a_signal_while_actors_are_built_lets_those_end_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: Any, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt if ref == "adoption" else RayActorError

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda asked, **_: (asked[:1], asked[1:]))
    handles: list[Any] = [SimpleNamespace(adopt=remote("adoption"), leave=remote(name)) for name in ("answers", "is silent")]
    with pytest.raises(KeyboardInterrupt):
        wait_until_adopted([RayWorker(handle, 1, dict) for handle in handles])
    assert [handle.leave.num_calls for handle in handles] == [1, 1]


def remote(answer: str) -> Any:
    """A method of an actor that counts its calls."""
    method = SimpleNamespace(num_calls=0)

    def call(*_: object) -> str:
        method.num_calls += 1
        return answer

    method.remote = call
    return method
