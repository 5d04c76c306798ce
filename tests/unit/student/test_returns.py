from __future__ import annotations

import numpy as np
import pytest

from streamrec.state import ComponentState
from streamrec.student.returns import Returns


def state(value: float, num: int = 8) -> ComponentState:
    arrays = {"table/bias": np.full(num, value, np.float32), "table/generation": np.zeros(num, np.int32), "dense/x": np.full(2, value, np.float32)}
    return ComponentState(arrays, {"num_steps": int(value)})


def bias(returns: Returns, version: str) -> float | None:
    found = returns.of(version)
    return None if found is None else float(found.arrays["table/bias"][0])


@pytest.fixture
def returns() -> Returns:
    """`v1` was promoted, `v2` waits."""
    made = Returns()
    made.keep("v1", state(1))
    made.settle("v1")
    made.keep("v2", state(2))
    return made


def test_what_was_promoted_last_can_be_gone_back_to_and_what_waits_cannot(returns: Returns) -> None:
    assert (bias(returns, "v1"), bias(returns, "v2")) == (1.0, None)


def test_versions_that_are_named_stay_when_later_ones_are_promoted_until_others_are_named(returns: Returns) -> None:
    returns.keep_these(["v1", "v2", "v9"])
    for number in (2, 3, 4, 5):
        returns.settle(f"v{number}")
        returns.keep(f"v{number + 1}", state(number + 1))
    assert [bias(returns, f"v{number}") for number in range(1, 7)] == [1.0, 2.0, None, 4.0, 5.0, None]
    returns.keep_these(["v2"])
    assert [bias(returns, f"v{number}") for number in range(1, 7)] == [None, 2.0, None, 4.0, 5.0, None]
    returns.forget_before("v3")
    assert bias(returns, "v2") is None


def test_a_restored_state_is_the_same_also_from_deltas(returns: Returns) -> None:
    base = returns.snapshot()
    returns.keep_these(["v1"])
    first = returns.delta()
    base = returns.snapshot() if first is None else base  # A new copy is told whole.
    returns.settle("v2")
    returns.keep("v3", ComponentState({**state(2).arrays, "dense/x": np.full(2, 3, np.float32)}, {"num_steps": 3}))
    delta = returns.delta()
    assert delta is None or set(delta.meta["versions"].values()) == {"v1", "v2", "v3"}
    restored = Returns()
    restored.restore(base if delta is not None else returns.snapshot(), [delta] if delta is not None else [])
    assert restored.digest() == returns.digest()
    assert (bias(restored, "v1"), bias(restored, "v2")) == (1.0, 2.0)
