from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config import Config, TeachersConfig, parse_config
from streamrec.teachers.policy import Reason, RefreshDecision, RefreshFacts, Score, decide_refresh, latest_events, must_forget, wait_after_failures_s

HOUR_MS = 3_600_000
NOW_MS = 1000 * HOUR_MS
CONFIG = parse_config(
    {
        "teachers": {
            "linear_refresh_events": 1000,
            "refresh_earliest": 0.4,
            "refresh_new_items": 0.1,
            "refresh_drop": 0.1,
            "refresh_drift": 0.1,
            "refresh_lag": 500,
            "refresh_behind": 2,
            "refresh_age_s": "12h",
            "budget_worker_min_per_day": 30,
            "retry_after_s": "1m",
            "forget_within_s": "10h",
        }
    }
).teachers
QUIET = RefreshFacts(
    "linear",
    version="v1",
    num_events=400,
    new_items=0.05,
    began_ms=NOW_MS - HOUR_MS,
    first=Score(0.20, 0.005, 2048),
    recent=Score(0.195, 0.005, 2048),
    drift=0.05,
    spent_s=600.0,
    cost_s=60.0,
    forget_since_ms=NOW_MS - HOUR_MS,
)
"""Nothing asks for a refresh, and only just."""


def decide(config: TeachersConfig = CONFIG, **values: Any) -> RefreshDecision:
    return decide_refresh(replace(QUIET, **values), NOW_MS, config)


CHANGED: list[tuple[str, dict[str, Any], Reason]] = [
    ("nothing", {}, Reason.NOTHING),
    ("as many events as are allowed", {"num_events": 1000}, Reason.EVENTS),
    ("new items", {"new_items": 0.11}, Reason.NEW_ITEMS),
    ("a fall of its score", {"recent": Score(0.15, 0.005, 2048)}, Reason.DROP),
    ("a better past", {"first": Score(0.30, 0.005, 2048)}, Reason.DROP),
    ("a drift of choices", {"drift": 0.11}, Reason.DRIFT),
    ("labels that do harm", {"is_harmful": True}, Reason.HARM),
    ("age", {"began_ms": NOW_MS - 12 * HOUR_MS}, Reason.AGE),
    ("somebody asked", {"asked_ms": NOW_MS - HOUR_MS + 1, "asked_by": "by ann", "num_events": 1, "lag": 9_000}, Reason.ASKED),
    ("somebody asked before the last one began", {"asked_ms": NOW_MS - HOUR_MS}, Reason.NOTHING),
    ("somebody asked, and nothing is new", {"asked_ms": NOW_MS - 1, "num_events": 0}, Reason.FEW_EVENTS),
    ("somebody asked, and nobody knows when it began", {"asked_ms": 1, "began_ms": None}, Reason.ASKED),
    ("somebody asked beyond the budget", {"asked_ms": NOW_MS - 1, "spent_s": 1800.0}, Reason.BUDGET),
    ("no version yet", {"version": None}, Reason.FIRST),
    ("its version is lost", {"version": None, "had_version": True, "num_events": 0}, Reason.LOST),
    ("a deletion's time", {"forget_since_ms": NOW_MS - 9 * HOUR_MS}, Reason.FORGET),
    ("a refresh under way", {"is_busy": True, "num_events": 5000}, Reason.UNDER_WAY),
    ("too few events", {"num_events": 399, "drift": 1.0, "new_items": 1.0, "recent": Score(0.0, 0.0, 2048)}, Reason.FEW_EVENTS),
    ("a spent budget", {"num_events": 1000, "spent_s": 1800.0}, Reason.BUDGET),
    ("a costly refresh", {"num_events": 1000, "cost_s": 1201.0}, Reason.BUDGET),
    ("a stream that is behind", {"num_events": 1999, "lag": 501}, Reason.BEHIND),
    ("a failure a moment ago", {"num_events": 1000, "num_failed": 1, "retry_ms": NOW_MS + 1}, Reason.BACKS_OFF),
]


@pytest.mark.parametrize(("values", "code"), [case[1:] for case in CHANGED], ids=[case[0] for case in CHANGED])
def test_each_measured_fact_changes_the_decision_and_is_named_by_it(values: dict[str, Any], code: Reason) -> None:
    decision = decide(**values)
    assert (decision.teacher, decision.code) == ("linear", code)
    assert decision.refresh == (
        code
        in {
            *(Reason.FORGET, Reason.FIRST, Reason.LOST, Reason.EVENTS, Reason.AGE, Reason.NEW_ITEMS),
            *(Reason.DROP, Reason.DRIFT, Reason.HARM, Reason.ASKED),
        }
    )
    assert decision.is_put_off == (code in {Reason.BACKS_OFF, Reason.BUDGET, Reason.BEHIND})
    assert decision.reason
    assert decision.numbers["num_events"] == values.get("num_events", QUIET.num_events)
    assert RefreshDecision.model_validate_json(decision.model_dump_json()) == decision


def test_every_fact_is_in_the_table_above() -> None:
    changed = {name for _, values, _ in CHANGED for name in values}
    told_by_others = {"teacher", "serves_ms"}
    assert changed | told_by_others == {field.name for field in fields(RefreshFacts)}


BOUNDS: list[tuple[str, Any, dict[str, Any], Reason]] = [
    ("linear_refresh_events", 400, {}, Reason.EVENTS),
    ("refresh_earliest", 0.5, {"drift": 0.2}, Reason.FEW_EVENTS),
    ("refresh_new_items", 0.04, {}, Reason.NEW_ITEMS),
    ("refresh_drop", 0.3, {"recent": Score(0.15, 0.005, 2048)}, Reason.NOTHING),
    ("refresh_drift", 0.04, {}, Reason.DRIFT),
    ("refresh_lag", 600, {"num_events": 1000, "lag": 600}, Reason.EVENTS),
    ("refresh_behind", 1.5, {"num_events": 1500, "lag": 600}, Reason.EVENTS),
    ("refresh_age_s", "30m", {}, Reason.AGE),
    ("budget_worker_min_per_day", 10, {"num_events": 1000}, Reason.BUDGET),
    ("forget_within_s", "1h", {}, Reason.FORGET),
]


@pytest.mark.parametrize(("key", "value", "facts", "code"), BOUNDS, ids=[case[0] for case in BOUNDS])
def test_each_bound_changes_the_decision(key: str, value: Any, facts: dict[str, Any], code: Reason) -> None:
    config = parse_config({"teachers": {**CONFIG.model_dump(), key: value}}).teachers
    assert decide(**facts).code is not code
    assert decide(config, **facts).code is code


@pytest.mark.parametrize("wish", [{"drift": 1.0}, {"is_harmful": True}, {"new_items": 1.0}, {"recent": Score(0.0, 0.0, 2048)}, {"num_events": 1999}])
def test_a_stream_that_is_behind_puts_off_what_can_wait_and_not_for_ever(wish: dict[str, Any]) -> None:
    assert decide(**wish).refresh
    assert decide(**wish, lag=10**6).code is Reason.BEHIND
    assert decide(**wish | {"num_events": 2000}, lag=10**6).refresh


@pytest.mark.parametrize(
    "need",
    [
        {"version": None}, {"version": None, "had_version": True}, {"began_ms": NOW_MS - 12 * HOUR_MS}, {"forget_since_ms": NOW_MS - 9 * HOUR_MS},
    ],
)  # fmt: skip
def test_what_cannot_wait_begins_however_far_the_stream_is_behind(need: dict[str, Any]) -> None:
    assert decide(**need, lag=10**6).refresh


def test_what_is_measured_on_few_queries_is_no_fall() -> None:
    assert decide(recent=Score(0.15, 0.03, 50)).code is Reason.NOTHING
    assert decide(recent=Score(0.15, 0.005, 2048)).code is Reason.DROP
    assert decide(first=None, recent=Score(0.01, 0.005, 2048)).code is Reason.NOTHING


def test_a_promise_to_a_deleted_user_is_kept_with_a_spent_budget_and_without_events() -> None:
    late = {"forget_since_ms": NOW_MS - 9 * HOUR_MS, "num_events": 0, "spent_s": 10**6}
    assert decide(**late).refresh
    assert not decide(**late, is_busy=True).refresh
    assert decide(**late, num_failed=1, retry_ms=NOW_MS + 1).code is Reason.BACKS_OFF
    assert not must_forget(None, NOW_MS, CONFIG)


def test_one_refresh_a_day_may_take_more_than_the_budget_or_a_small_one_would_stop_them_for_ever() -> None:
    assert decide(num_events=1000, spent_s=0.0, cost_s=3600.0).refresh
    assert not decide(num_events=1000, spent_s=1.0, cost_s=3600.0).refresh


def test_an_old_version_is_refreshed_with_the_first_new_event_and_not_before() -> None:
    old = {"began_ms": NOW_MS - 13 * HOUR_MS}
    assert decide(**old, num_events=1).code is Reason.AGE
    assert decide(**old, num_events=0).code is Reason.FEW_EVENTS
    assert decide(began_ms=None, num_events=1).code is Reason.FEW_EVENTS


def test_the_wait_after_failures_doubles_and_ends_growing() -> None:
    waits = [wait_after_failures_s(num, CONFIG) for num in range(1, 10)]
    assert waits[:4] == [60.0, 120.0, 240.0, 480.0]
    assert waits[-1] == waits[-2] == 64 * 60.0


def test_a_teacher_that_the_settings_do_not_know_is_refreshed_as_often_as_the_transformer() -> None:
    config = Config().teachers
    assert latest_events("mine", config) == config.transformer_refresh_events


scores = st.none() | st.builds(Score, st.floats(0, 1), st.floats(0, 0.1), st.integers(1, 5000))


@given(
    st.builds(
        RefreshFacts,
        teacher=st.sampled_from(["linear", "transformer"]),
        version=st.none() | st.just("v1"),
        num_events=st.integers(0, 20_000),
        new_items=st.floats(0, 2),
        began_ms=st.none() | st.integers(0, NOW_MS),
        first=scores,
        recent=scores,
        drift=st.floats(0, 1),
        spent_s=st.floats(0, 10**6),
        cost_s=st.floats(0, 10**5),
        forget_since_ms=st.none() | st.integers(0, NOW_MS),
        num_failed=st.integers(0, 20),
        retry_ms=st.integers(0, 2 * NOW_MS),
    )
)
def test_whatever_is_measured_nothing_begins_within_a_wait_or_beyond_the_budget_or_without_anything_new(facts: RefreshFacts) -> None:
    decision = decide_refresh(facts, NOW_MS, CONFIG)
    assert decide_refresh(facts, NOW_MS, CONFIG) == decision
    if not decision.refresh:
        return
    assert facts.retry_ms <= NOW_MS
    if decision.code is not Reason.FORGET:
        assert facts.num_events > 0
        assert facts.spent_s == 0 or facts.spent_s + facts.cost_s <= 60 * CONFIG.budget_worker_min_per_day + 1e-6
        if decision.code is not Reason.AGE:
            assert facts.num_events >= 0.4 * latest_events(facts.teacher, CONFIG)
