from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamrec.config import Config, parse_config
from streamrec.pipeline.plan import Measured, Plan, StreamFacts, next_limit, next_plan, refresh_decisions, take_ranges, version_name
from streamrec.teachers.policy import Reason

CONFIG = parse_config({"pipeline": {"max_batch_events": 100, "publish_interval_s": 3.0, "checkpoint_interval_s": 10.0, "idle_promote_s": 2.0}})


def facts(**values: Any) -> StreamFacts:
    usual = {"batch": 4, "offsets": {0: 10, 1: 0}, "teachers": {}, "pending": {}, "events_since": {}, "candidate": None, "has_uncommitted": False}
    return StreamFacts(**{**usual, **values})


def measured(**values: Any) -> Measured:
    usual = {"ends": {0: 10, 1: 0}, "finished": {}, "now_ms": 7, "since_publish_s": 0.0, "since_checkpoint_s": 0.0}
    usual |= {"since_events_s": 0.0} if "since_events_s" in Measured.__dataclass_fields__ else {}
    return Measured(**{**usual, **values})


def due_refreshes(state: StreamFacts, now_ms: int, config: Config) -> tuple[str, ...]:
    return tuple(name for name, decision in refresh_decisions(state, now_ms, config).items() if decision.refresh)


def planned(state: StreamFacts, seen: Measured, config: Config = CONFIG) -> Plan:
    plan = next_plan(state, seen, config)
    assert plan is not None
    return plan


lags = st.dictionaries(st.integers(0, 5), st.integers(0, 5000), min_size=1, max_size=6)


@given(lags, st.integers(1, 2000))
def test_ranges_take_all_that_fits_from_every_partition_and_never_more_than_the_limit(lag: dict[int, int], limit: int) -> None:
    offsets = {partition: 3 * partition for partition in lag if partition % 2}
    ends = {partition: offsets.get(partition, 0) + num for partition, num in lag.items()}
    ranges = take_ranges("t", offsets, ends, limit)
    taken = {part.partition: part.end - part.start for part in ranges}
    assert list(taken) == sorted(lag)
    assert all(part.start == offsets.get(part.partition, 0) and 0 <= taken[part.partition] <= lag[part.partition] for part in ranges)
    total, behind = sum(lag.values()), sum(num > 0 for num in lag.values())
    assert sum(taken.values()) == min(total, limit)
    if total <= limit:
        assert taken == dict(sorted(lag.items()))
    if behind <= limit:
        assert all(taken[partition] for partition, num in lag.items() if num)


def test_ranges_are_in_proportion_to_each_partitions_lag() -> None:
    taken = [part.end - part.start for part in take_ranges("t", {}, {0: 9000, 1: 1000}, 1000)]
    assert taken == pytest.approx([900, 100], abs=2)


def test_a_slow_partition_does_not_starve_behind_a_busy_one() -> None:
    offsets, ends = {0: 0, 1: 0}, {0: 1_000_000, 1: 3}
    for _ in range(3):
        for part in take_ranges("t", offsets, ends, 100):
            offsets[part.partition] = part.end
        ends[0] += 1000
    assert offsets[1] == 3


def test_a_partition_behind_its_offset_is_read_no_further() -> None:
    (part,) = take_ranges("t", {0: 50}, {0: 20}, 10)
    assert (part.start, part.end) == (50, 50)


def test_nothing_new_and_nothing_waiting_is_nothing_to_do() -> None:
    assert next_plan(facts(), measured(), CONFIG) is None
    assert next_plan(facts(has_uncommitted=True), measured(since_checkpoint_s=9.0), CONFIG) is None


def test_new_events_are_planned_with_the_next_number_and_a_seed_of_their_own() -> None:
    first, second = planned(facts(), measured(ends={0: 12, 1: 5})), planned(facts(batch=5), measured(ends={0: 12, 1: 5}))
    assert first.batch == 5
    assert first.num_records == 7
    assert first.seed != second.seed
    assert first.now_ms == 7
    assert first.evaluate


def test_what_is_not_committed_is_committed_when_no_events_come() -> None:
    plan = planned(facts(has_uncommitted=True), measured(since_checkpoint_s=10.0))
    assert plan.checkpoint
    assert not plan.publish
    assert plan.num_records == 0


def test_versions_and_commits_keep_their_intervals() -> None:
    ends = {0: 12, 1: 5}
    assert not planned(facts(), measured(ends=ends, since_publish_s=2.9)).publish
    assert planned(facts(), measured(ends=ends, since_publish_s=3.0)).publish
    assert not planned(facts(), measured(ends=ends, since_checkpoint_s=9.9)).checkpoint
    assert planned(facts(), measured(ends=ends, since_checkpoint_s=10.0)).checkpoint


def test_a_finished_refresh_is_used_only_when_it_is_the_one_that_was_started() -> None:
    begun = facts(teachers={"linear": "v1"}, pending={"linear": "v4"})
    ends = {0: 12, 1: 5}
    for state in (begun, replace(begun, teachers={})):
        used = planned(state, measured(ends=ends, finished={"linear": "v4"}))
        assert (used.teachers, used.challengers) == (({"linear": "v1"}, {"linear": "v4"}) if state.teachers else ({"linear": "v4"}, {}))
        early = planned(state, measured(ends=ends, finished={"linear": "v3"}))
        assert (early.teachers, early.challengers) == (state.teachers, {})
    assert planned(facts(teachers={"linear": "v1"}), measured(ends=ends, finished={"linear": "v4"})).challengers == {}


def test_a_refresh_that_has_ended_is_a_step_where_no_events_come_and_then_none() -> None:
    begun = facts(teachers={"linear": "v1"}, pending={"linear": "v4"})
    assert next_plan(begun, measured(finished={"linear": "v3"}), Config()) is None
    assert planned(begun, measured(finished={"linear": "v4"})).challengers == {"linear": "v4"}
    assert next_plan(facts(teachers={"linear": "v1"}, challengers={"linear": "v4"}), measured(finished={"linear": "v4"}), Config()) is None
    assert planned(begun, measured(failed={"linear": "it broke"})).failed == {"linear": "it broke"}
    assert next_plan(facts(teachers={"linear": "v1"}), measured(failed={"linear": "it broke"}), Config()) is None


def test_a_refresh_is_due_after_enough_events_unless_one_is_under_way_or_the_teacher_is_off() -> None:
    config = parse_config({"teachers": {"linear_refresh_events": 10, "transformer_refresh_events": 20}})
    made = {"linear": "v1", "transformer": "v1"}
    assert due_refreshes(facts(teachers=made, events_since={"linear": 9, "transformer": 20}), 0, config) == ("transformer",)
    busy = facts(teachers=made, events_since={"linear": 10, "transformer": 20}, pending={"transformer": "v3"})
    assert due_refreshes(busy, 0, config) == ("linear",)
    assert due_refreshes(replace(busy, challengers={"linear": "v3"}), 0, config) == ()
    off = parse_config({"teachers": {"enabled": []}})
    assert due_refreshes(facts(events_since={"linear": 10**9}), 0, off) == ()


def test_a_teacher_that_must_forget_a_user_is_refreshed_within_the_time_that_is_set_and_not_before() -> None:
    config = parse_config({"teachers": {"forget_within_s": "1h"}})
    state = facts(forget_since_ms={"linear": 1000, "transformer": 2000})
    assert due_refreshes(state, 3_240_999, config) == ()
    assert due_refreshes(state, 3_241_000, config) == ("linear",)
    assert due_refreshes(facts(forget_since_ms={"linear": 1000}, pending={"linear": "v3"}), 10**9, config) == ()


def test_an_idle_stream_keeps_the_time_by_which_teachers_forget() -> None:
    config = parse_config({"teachers": {"forget_within_s": "1h", "linear_refresh_events": 10}})
    state = facts(forget_since_ms={"linear": 1000}, events_since={"linear": 50, "transformer": 10**9})
    assert next_plan(state, measured(now_ms=3_000_000), config) is None
    assert planned(state, measured(now_ms=3_500_000), config).start_refresh == ("linear",)
    # One that began before the deletion comes into use first, then the one without the user begins.
    begun = facts(forget_since_ms={"linear": 1000}, pending={"linear": "v3"})
    assert next_plan(begun, measured(now_ms=3_500_000), config) is None
    settled = planned(begun, measured(now_ms=3_500_000, finished={"linear": "v3"}), config)
    assert (settled.teachers, settled.start_refresh) == ({"linear": "v3"}, ())


def test_a_plan_survives_json_and_refuses_unknown_keys() -> None:
    plan = planned(facts(teachers={"linear": "v1"}), measured(ends={0: 12, 1: 5}))
    values = plan.model_dump(mode="json")
    assert Plan.model_validate(values) == plan
    with pytest.raises(ValidationError):
        Plan.model_validate({**values, "surprise": 1})


def test_teachers_answer_in_the_same_order_whichever_came_first_into_use() -> None:
    state = facts(teachers={"transformer": "v1"}, pending={"linear": "v4"})
    plan = planned(state, measured(ends={0: 12, 1: 5}, finished={"linear": "v4"}))
    stored = json.loads(json.dumps(plan.model_dump(mode="json"), sort_keys=True))
    assert list(plan.teachers) == list(Plan.model_validate(stored).teachers) == ["linear", "transformer"]


def test_version_names_sort_by_age() -> None:
    assert sorted([version_name(100), version_name(9), version_name(12)]) == [version_name(9), version_name(12), version_name(100)]


PACED = parse_config({"pipeline": {"max_batch_events": 8000, "min_batch_events": 500, "batch_interval_s": 0.5}})


@given(st.integers(0, 10**6), st.one_of(st.none(), st.floats(1e-7, 10.0)))
def test_the_size_of_a_batch_stays_within_its_limits_and_never_falls_as_the_lag_grows(lag: int, seconds: float | None) -> None:
    limit = next_limit(lag, seconds, PACED.pipeline)
    assert 500 <= limit <= 8000
    assert next_limit(lag + 1000, seconds, PACED.pipeline) >= limit


def test_a_batch_takes_what_an_interval_is_enough_for_and_more_the_further_the_stream_is_behind() -> None:
    assert next_limit(1500, 0.0005, PACED.pipeline) == 1000
    assert next_limit(6000, 0.0005, PACED.pipeline) == 3000
    assert next_limit(60_000, 0.0005, PACED.pipeline) == 8000
    assert next_limit(900, 1.0, PACED.pipeline) == 500
    assert next_limit(10**6, None, PACED.pipeline) == 8000
    small = parse_config({"pipeline": {"max_batch_events": 100}})
    assert next_limit(10**6, 1.0, small.pipeline) == 100


def test_a_plan_says_what_its_size_was_chosen_by_and_what_it_leaves() -> None:
    plan = planned(facts(offsets={0: 0}), measured(ends={0: 1700}, seconds_per_event=0.0005), PACED)
    assert (plan.num_records, plan.lag, plan.seconds_per_event) == (1000, 700, 0.0005)


def test_a_range_that_is_read_ahead_is_taken_when_it_follows_and_not_otherwise() -> None:
    ahead = take_ranges("t", {0: 10, 1: 0}, {0: 40, 1: 30}, 60)
    assert planned(facts(), measured(ends={0: 99, 1: 99}, ahead=ahead)).ranges == ahead
    assert planned(facts(offsets={0: 11, 1: 0}), measured(ends={0: 99, 1: 99}, ahead=ahead)).ranges != ahead


def test_a_plan_that_leaves_many_records_waiting_puts_its_refreshes_off_and_says_so() -> None:
    many = CONFIG.teachers.linear_refresh_events
    state = facts(teachers={"linear": "v1", "transformer": "v1"}, events_since={"linear": many})
    near, far = (planned(state, measured(ends={0: 10, 1: 100 + lag})) for lag in (CONFIG.teachers.refresh_lag, CONFIG.teachers.refresh_lag + 1))
    assert near.start_refresh == ("linear",)
    assert far.start_refresh == ()
    assert [(decision.teacher, decision.code) for decision in far.decisions] == [("linear", Reason.BEHIND)]
    late = planned(replace(state, events_since={"linear": 4 * many}), measured(ends={0: 10, 1: 10**6}))
    assert late.start_refresh == ("linear",)
