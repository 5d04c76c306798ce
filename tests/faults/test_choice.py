from __future__ import annotations

import numpy as np
import pytest

from streamrec.testing.chaos.compare import differences
from streamrec.testing.chaos.kills import OTHERS, Kill, Target, choose, wanted_in_ci, wanted_of_run
from streamrec.testing.failpoints import Failpoint

WINDOWS = {failpoint: [1, 2, 3, 5, 6, 7, 9, 10, 11] for failpoint in Failpoint} | {
    Failpoint.HEAD_MOVED: [4, 8, 12, 16],
    Failpoint.REFRESH_STARTED: [3, 9],
    Failpoint.READ: list(range(1, 17)),
    Failpoint.PLAN_DURABLE: list(range(1, 17)),
    Failpoint.USERS_LEFT_LAKE: [5, 9, 13],
    Failpoint.LAKE_VACUUMED: [12, 16],
}


def chosen(seed: int) -> list[Kill]:
    return choose(np.random.default_rng(seed), wanted_in_ci(seed), WINDOWS)


@pytest.mark.parametrize("seed", range(5))
def test_every_kill_has_a_window_and_a_batch_of_its_own(seed: int) -> None:
    kills = chosen(seed)
    batches = [kill.batch for kill in kills]
    assert batches == sorted(set(batches))
    assert all(kill.batch in WINDOWS[kill.failpoint] for kill in kills)
    assert len(kills) == len(wanted_in_ci(seed))
    assert {kill.target for kill in kills} == set(Target)
    (job,) = (kill for kill in kills if kill.target is Target.JOB)
    assert 5 <= job.batch <= 12  # Before the first commit with a live version a job refuses the state.


def test_the_same_seed_chooses_the_same_kills_and_another_one_others() -> None:
    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_more_kills_than_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into one run, got 5"):
        choose(np.random.default_rng(0), [(Target.CONTROLLER, Failpoint.HEAD_MOVED)] * 5, WINDOWS)


@pytest.mark.parametrize("seed", range(5))
def test_the_selection_dies_inside_a_deletion_and_at_the_vacuum(seed: int) -> None:
    exact = {failpoint for _, failpoint in wanted_in_ci(seed)}
    assert Failpoint.LAKE_VACUUMED in exact
    assert exact & {Failpoint.USERS_LEFT_LAKE, Failpoint.BEFORE_RECEIPT, Failpoint.RECEIPT_WRITTEN}


def test_six_runs_stop_the_controller_at_every_failpoint_and_kill_everything_else() -> None:
    wanted = [pair for run in range(6) for pair in wanted_of_run(7, run, with_transformer=run % 3 == 0)]
    assert {failpoint for _, failpoint in wanted} == {*Failpoint, None}
    assert {target for target, _ in wanted} == {Target.CONTROLLER, *OTHERS}


def test_a_difference_is_named_with_its_first_place() -> None:
    wanted = {"books": {"applied": 3, "late": 0}, "moves": [1], "same": 1}
    assert differences(wanted, {"books": {"applied": 2, "late": 0}, "moves": [1, 2], "same": 1}) == {
        "books": "applied: wanted 3, got 2",
        "moves": "lacks [], has besides [2]",
    }
