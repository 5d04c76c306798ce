from __future__ import annotations

import pytest

from streamrec.clock import ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(now_ms=1_000)
    clock.advance(0.25)
    clock.advance(2)
    assert (clock.now_ms(), clock.monotonic_s()) == (3_250, 2.25)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_the_system_clock_counts_in_milliseconds_and_seconds() -> None:
    clock = SystemClock()
    assert clock.now_ms() > 1_600_000_000_000
    assert clock.monotonic_s() <= clock.monotonic_s()
