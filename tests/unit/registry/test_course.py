"""What is kept of how a stream has fared: bounded, by time, with marks where counters step."""

from __future__ import annotations

from streamrec.clock import ManualClock
from streamrec.registry.course import EVERY_S, MOST_MARKS, MOST_POINTS, Course, point_of
from streamrec.registry.swaps import BoardState
from streamrec.registry.telling import STREAM, Telling
from streamrec.telemetry.numbers import Numbers


def test_a_point_has_what_is_drawn_and_no_other_measure_or_number_that_is_none() -> None:
    numbers = Numbers()
    numbers.put("streamrec_score", 0.251234567, model="student", measure="recall@20")
    numbers.put("streamrec_score", 0.5, model="student", measure="ndcg@20")
    numbers.put("streamrec_score", float("nan"), model="popular", measure="recall@20")
    numbers.add("streamrec_queries_total", 512)
    numbers.put("streamrec_teachers_gain", 0.01)
    numbers.put("streamrec_teachers_gain_error", 0.002)
    numbers.put("streamrec_teacher_weight", 0.6, teacher="linear")
    numbers.put("streamrec_versions_total", 7, student="default", outcome="promoted")
    numbers.put("streamrec_versions_total", 9, student="default", outcome="published")
    assert point_of(numbers.taken()) == {
        "score/student": 0.25123,
        "queries": 512,
        "gain": 0.01,
        "gain_error": 0.002,
        "weight/linear": 0.6,
        "promoted/default": 7,
    }


def test_points_come_every_two_seconds_as_columns_and_the_oldest_go() -> None:
    clock = ManualClock(1_000_000)
    course, numbers = Course(clock), Numbers()
    for num in range(2 * MOST_POINTS + 20):
        numbers.put("streamrec_lag_records", num)
        course.take(numbers.taken())
        clock.advance(EVERY_S / 2)
    found = course.after(0)
    assert len(found["at_ms"]) == len(found["series"]["lag"]) == MOST_POINTS
    assert {after - before for before, after in zip(found["at_ms"], found["at_ms"][1:], strict=False)} == {round(EVERY_S * 1000)}
    assert found["series"]["lag"][-1] == 2 * MOST_POINTS + 18
    last = found["at_ms"][-1]
    assert course.after(last - 1) == {"at_ms": [last], "series": {"lag": [found["series"]["lag"][-1]]}, "marks": []}
    assert course.after(last)["at_ms"] == []


def test_a_series_that_comes_later_or_goes_has_gaps() -> None:
    clock = ManualClock()
    course = Course(clock)
    for teacher in ("linear", "transformer"):
        numbers = Numbers()
        numbers.put("streamrec_teacher_weight", 1.0, teacher=teacher)
        clock.advance(EVERY_S)
        course.take(numbers.taken())
    assert course.after(0)["series"] == {"weight/linear": [1.0, None], "weight/transformer": [None, 1.0]}


def test_steps_of_counters_are_marks_whichever_point_they_fall_between_and_what_was_before_is_none() -> None:
    clock = ManualClock()
    course, numbers = Course(clock), Numbers()
    numbers.add("streamrec_refreshes_total", 3, teacher="linear", outcome="used")
    course.take(numbers.taken())
    clock.advance(0.5)
    numbers.add("streamrec_refreshes_total", teacher="linear", outcome="used")
    numbers.add("streamrec_refreshes_total", teacher="linear", outcome="started")
    numbers.add("streamrec_refreshes_total", teacher="transformer", outcome="used")
    course.take(numbers.taken())
    clock.advance(0.5)
    numbers.add("streamrec_returns_total")
    course.take(numbers.taken())
    course.mark("promote", "v00000012")
    assert [(mark["at_ms"], mark["kind"], mark["what"]) for mark in course.after(0)["marks"]] == [
        (500, "refresh", "linear"),
        (500, "refresh", "transformer"),
        (1000, "return", ""),
        (1000, "promote", "v00000012"),
    ]
    assert [mark["kind"] for mark in course.after(500)["marks"]] == ["return", "promote"]


def test_a_rollback_that_both_board_and_stream_tell_is_one() -> None:
    clock = ManualClock()
    course, numbers = Course(clock), Numbers()
    course.take(numbers.taken())
    for pause_s, named in ((0.1, "v3"), (60.0, ""), (60.0, "v2")):
        clock.advance(pause_s)
        if named:
            course.mark("rollback", named)
        clock.advance(1.0)
        numbers.add("streamrec_rollbacks_total")
        course.take(numbers.taken())
    course.mark("rollback", "v1")
    course.mark("rollback", "v0")
    assert [mark["what"] for mark in course.after(-1)["marks"]] == ["v3", "", "v2", "v1", "v0"]


def test_a_stream_that_starts_again_counts_from_nothing_and_marks_nothing() -> None:
    clock = ManualClock()
    course = Course(clock)
    for num in (4, 0):
        numbers = Numbers()
        numbers.put("streamrec_refreshes_total", num, teacher="linear", outcome="used")
        course.take(numbers.taken())
    assert course.after(-1)["marks"] == []


def test_marks_are_bounded() -> None:
    course = Course(ManualClock())
    for num in range(MOST_MARKS + 5):
        course.mark("promote", f"v{num}")
    assert [mark["what"] for mark in course.after(-1)["marks"]] == [f"v{num}" for num in range(5, MOST_MARKS + 5)]


def test_only_the_stream_makes_the_course_and_swaps_come_with_it() -> None:
    clock = ManualClock(5)
    state = BoardState(clock)
    telling, numbers = Telling(clock, state), Numbers()
    numbers.put("streamrec_lag_records", 1)
    telling.tell("r1", numbers.taken())
    assert telling.course_after(0)["at_ms"] == []
    telling.tell(STREAM, numbers.taken())
    state.saw("r1")
    for number in range(1, 31):
        state.publish(f"v{number}", number)
    clock.advance(0.01)
    state.ack("r1", 30, "")
    found = telling.course_after(0)
    assert found["at_ms"] == [5]
    assert [swap["version"] for swap in found["swaps"]] == [f"v{number}" for number in range(11, 31)]
    assert (found["swaps"][-1]["replicas"], round(found["swaps"][-1]["all_replicas_ms"])) == (1, 10)


def test_what_is_found_again_at_each_step_is_one_alarm_a_minute_and_others_beside_it_are_their_own() -> None:
    clock = ManualClock()
    course, numbers = Course(clock), Numbers()
    course.take(numbers.taken())
    for num in range(100):
        clock.advance(1.0)
        numbers.add("streamrec_alarms_total", what="unlike_events")
        numbers.add("streamrec_alarms_total", num == 30, what="choices_moved")
        numbers.add("streamrec_refreshes_total", num == 40, teacher="linear", outcome="failed")
        course.take(numbers.taken())
    assert [(mark["at_ms"], mark["kind"], mark["what"]) for mark in course.after(0)["marks"]] == [
        (1_000, "alarm", "unlike_events"),
        (31_000, "alarm", "choices_moved"),
        (41_000, "refresh_failed", "linear"),
        (61_000, "alarm", "unlike_events"),
    ]
