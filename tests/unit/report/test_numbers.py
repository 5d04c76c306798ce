from __future__ import annotations

import re

import numpy as np
import pytest

from streamrec.config.teacher_names import STUDENT
from streamrec.evaluation.curve import MOST_POINTS, Curve
from streamrec.evaluation.progressive import Progressive
from streamrec.evaluation.ranking import METRICS
from streamrec.pipeline.spending import WAIT_BOUNDS_S, waits_of
from streamrec.report import of_run
from streamrec.report.facts import METRIC, Report, Score
from streamrec.report.learning import verdict
from streamrec.report.numbers import HIDDEN, public, shares_of, spread_of, spread_of_times
from streamrec.report.plots import Axes, Stroke, lines


def test_a_curve_is_bounded_and_loses_no_query_however_long_the_run_is() -> None:
    curve, rng = Curve(), np.random.default_rng(0)
    scores = [rng.random(3).astype(np.float32) for _ in range(5 * MOST_POINTS + 3)]
    for step, values in enumerate(scores):
        curve.begin(step + 1, 1000 * step, 10)
        curve.add("student", values)
        assert len(curve.points) <= MOST_POINTS
    assert {point.num_steps for point in curve.points[:-1]} == {curve.span}
    assert sum(point.num_events for point in curve.points) == 10 * len(scores)
    assert [curve.points[-1].batch, curve.points[-1].at_ms] == [len(scores), 1000 * (len(scores) - 1)]
    assert curve.total("student") == pytest.approx([3.0 * len(scores), float(np.sum(scores)), float(np.sum(np.square(scores)))])
    again = Curve()
    again.restore(*curve.state())
    assert (again.points, again.span) == (curve.points, curve.span)


@pytest.mark.parametrize(("last", "marked"), [(2, ["1", "2"]), (3, ["1", "2", "3"]), (25, ["5", "10", "15", "20", "25"])])
def test_blocks_are_marked_by_whole_numbers_each_once(last: int, marked: list[str]) -> None:
    axes = Axes("Recall", "blocks", lambda x: f"{x:.0f}", lambda y: f"{y:.2f}", is_whole=True)
    drawn = lines(axes, range(1, last + 1), [Stroke("student", "student", [0.1] * last)])
    wide, phone = (re.findall(r">(\d+)</text>", picture) for picture in drawn.split("<svg")[1:])
    assert (wide, len(phone)) == (marked, len(set(phone)))


def test_a_points_error_is_that_of_a_mean() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.25], np.float32)
    curve = Curve()
    curve.begin(1, 0, 4)
    assert curve.add("student", values) == pytest.approx(values.std(ddof=1) / 2)
    assert curve.points[0].mean("student") == pytest.approx((values.mean(), values.std(ddof=1) / 2))
    assert curve.points[0].mean("nobody") is None


def test_when_steps_were_is_not_in_the_digest_and_what_they_found_is() -> None:
    def digest(at_ms: int, score: float) -> str:
        progressive = Progressive()
        progressive.begin(1, at_ms, 2)
        progressive.add("student", dict.fromkeys(METRICS, np.array([score, 0.5], np.float32)))
        return progressive.digest()

    assert digest(1, 1.0) == digest(2, 1.0) != digest(1, 0.0)


def test_waits_are_counted_by_bucket_and_what_has_no_time_is_left_out() -> None:
    counts = waits_of(np.array([10_000, 9_900, 9_899, 0, -1, 12_000, -5], np.int64), 10_000)
    assert counts[:2] == [3, 1]  # One is of a clock that is ahead.
    assert sum(counts) == 4
    assert waits_of(np.array([1], np.int64), 10**12)[-1] == 1
    assert len(counts) == len(WAIT_BOUNDS_S) + 1


def test_quantiles_lie_in_their_bucket_and_beyond_the_last_bound_nobody_knows() -> None:
    spread = spread_of([1, 8, 1], [1.0, 2.0])
    assert spread is not None
    assert spread.quantiles_s == {"p50": 1.5, "p95": None, "p99": None}
    assert spread_of([0, 0, 0], [1.0, 2.0]) is None
    single = spread_of_times([0.5, 1.5, 3.0], [1.0, 2.0])
    assert single is not None
    assert (single.counts, single.quantiles_s["p50"]) == ((1, 1, 1), 1.5)


def test_shares_tell_even_from_uneven() -> None:
    even, one = shares_of(np.ones(100), 100), shares_of(np.array([7.0]), 100)
    assert even is not None
    assert one is not None
    assert (even.coverage, even.top_10, round(even.gini, 9)) == (1.0, pytest.approx(0.1), 0.0)
    assert (one.coverage, one.top_1, one.num_places, one.gini) == (0.01, pytest.approx(1.0), 7, pytest.approx(0.99))
    assert even.lorenz[0] == one.lorenz[0] == 0.0
    assert even.lorenz[-1] == one.lorenz[-1] == 1.0
    assert shares_of(np.zeros(3), 3) is None


@pytest.mark.parametrize(("num_queries", "expected"), [(99, "Too few queries yet to say"), (100, "The student is better than what is popular")])
def test_a_handful_of_queries_has_no_verdict(num_queries: int, expected: str) -> None:
    scores = tuple(
        Score(model, kind, num_queries, {METRIC: value}) for model, kind, value in ((STUDENT, "student", 0.5), ("popular", "baseline", 0.1))
    )
    assert verdict(Report("run", "a run", 0, scores=scores)).startswith(expected)


def test_a_handful_of_queries_has_no_error_and_that_it_is_missing_is_said() -> None:
    def error_of(num: int) -> float | None:
        progressive = Progressive()
        progressive.begin(1, 0, num)
        progressive.add(STUDENT, dict.fromkeys(METRICS, np.zeros(num, np.float32)))
        return of_run._error(progressive, STUDENT, num)

    assert (error_of(1), error_of(99), error_of(100)) == (None, None, 0.0)


def test_nothing_secret_is_left_of_a_configuration() -> None:
    held = {
        "kafka": {"sasl_password": "hunter2", "ssl_key_file": "/run/key.pem", "oauth_client_secret": "hunter3", "servers": ["sasl://u:hunter4@h:9"]},
        "serving": {"keys_file": "/run/keys", "api_key": "hunter5"},
        "max_tokens": 5,
    }
    shown = public(held)
    assert "hunter" not in str(shown)
    assert shown["kafka"]["servers"] == [f"sasl://{HIDDEN}@h:9"]
    assert (shown["serving"]["keys_file"], shown["max_tokens"]) == ("/run/keys", 5)
