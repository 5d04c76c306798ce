from __future__ import annotations

from typing import Any

from streamrec.pipeline.refresh_times import RefreshTimes, Took


def test_the_parts_of_a_refresh_that_was_compared_and_of_one_that_was_not() -> None:
    times = RefreshTimes()
    times.begin("linear", "v1", 10.0)
    times.name("linear", "v1", 14.0)
    times.name("linear", "v1", 15.0)  # Plans go on naming it.
    assert times.use("linear", "v1", 20.0) == Took(4.0, 6.0)
    times.begin("linear", "v2", 30.0)
    assert times.use("linear", "v2", 33.0) == Took(3.0, 0.0)
    assert times.last == {"linear": Took(3.0, 0.0)}
    assert Took(4.0, 6.0).total_s == 10.0


def test_of_a_refresh_that_another_process_began_or_whose_version_was_dropped_nothing_is_known() -> None:
    times = RefreshTimes()
    assert times.use("linear", "v1", 1.0) is None
    times.begin("linear", "v2", 2.0)
    times.name("linear", "v2", 3.0)
    times.begin("linear", "v3", 4.0)
    assert times.use("linear", "v2", 5.0) is None
    assert times.use("linear", "v3", 6.0) == Took(2.0, 0.0)


def test_a_stream_tells_how_long_fresh_labels_took(world: Any) -> None:
    controller = world.controller()
    reports = world.play(controller)
    used = [report for report in reports if report.refreshes_took]
    assert used
    for report in used:
        assert set(report.refreshes_took) <= set(report.activated)
        assert any("are fresh" in line for line in report.about_teachers())
    assert controller.refreshing.times.last == {teacher: took for report in used for teacher, took in report.refreshes_took.items()}
