from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from streamrec.errors import OperatorError
from streamrec.pipeline.ray_workers import RayPending


def failing_with(cause: Exception) -> Any:
    """Raise as Ray does: an error of a class made from its own and the cause's."""

    def get(_: Any) -> Any:
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
