from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from streamrec.config import RegistryConfig
from streamrec.evaluation.shown import Outcome
from streamrec.evaluation.worth import Giver
from streamrec.registry.guard import Guarded, Watch

OLD, NEW, NEXT = "v00000003", "v00000005", "v00000006"
CFG = RegistryConfig(guard_share=0.5, guard_error=0.05, guard_min_answers=100)


def outcomes(version: str, taken: Iterable[bool], source: str = "student", first_user: int = 0, is_heard: bool = True) -> list[Outcome]:
    return [Outcome(Giver("default", version, source), user, bool(is_taken), is_heard) for user, is_taken in enumerate(taken, first_user)]


def draws(rate: float, num: int, seed: int = 1) -> list[bool]:
    return [bool(each) for each in np.random.default_rng(seed).random(num) < rate]


def watched(rate: float = 0.2, num: int = 1000, cfg: RegistryConfig = CFG) -> Watch:
    """A watch of `NEW`, which took the place of `OLD`."""
    return Watch(live=OLD).after(outcomes(OLD, draws(rate, num)), cfg).promoted(NEW, OLD, cfg)


def played(watch: Watch, rate: float, num: int, cfg: RegistryConfig = CFG, seed: int = 2, version: str = NEW) -> Guarded | None:
    """Look after each step of 25 answers."""
    found = draws(rate, num, seed)
    for start in range(0, num, 25):
        watch = watch.after(outcomes(version, found[start : start + 25]), cfg)
        if (finding := watch.finding("default", cfg)) is not None:
            return finding
        if (watch := watch.ended(cfg)).first is None:
            return None
    return None


def test_a_version_whose_answers_lead_to_far_less_is_rolled_back_with_its_numbers() -> None:
    finding = played(watched(), 0.02, 1000)
    assert finding is not None
    assert (finding.student, finding.version, finding.to) == ("default", NEW, OLD)
    assert finding.numbers["before"] == pytest.approx(0.2, abs=0.03)
    assert finding.numbers["num_since"] <= 500
    assert finding.numbers["evidence"] >= finding.numbers["needed"] == 40
    assert "answers since v00000003 led to something" in finding.reason


@pytest.mark.parametrize("rate", [0.2, 0.14, 0.6])
def test_a_version_that_is_as_good_or_a_little_worse_stays_and_is_then_vouched_for(rate: float) -> None:
    watch = watched().after(outcomes(NEW, draws(rate, 1000)), CFG)
    assert watch.finding("default", CFG) is None
    after = watch.ended(CFG)
    assert (after.first, after.vouched, after.num_before) == (None, NEW, 2000)
    assert after.promoted(NEXT, NEW, CFG).first == NEXT


def test_a_finding_that_is_not_acted_on_stays_one() -> None:
    watch = watched().after(outcomes(NEW, draws(0.0, 2000)), CFG)
    assert watch.ended(CFG) == watch
    assert watch.finding("default", CFG) is not None


def test_a_version_that_is_surely_good_is_vouched_for_early() -> None:
    watch = watched().after(outcomes(NEW, draws(0.2, 300)), CFG).ended(CFG)
    assert (watch.vouched, watch.num, watch.num_before) == (NEW, 0, 1300)
    unsure = watched().after(outcomes(NEW, draws(0.1, 300)), CFG)
    assert unsure.ended(CFG) == unsure


def test_versions_that_follow_the_watched_one_count_with_it_and_only_the_first_is_vouched_for() -> None:
    watch = watched().after(outcomes(NEW, draws(0.01, 60)), CFG).promoted(NEXT, NEW, CFG)
    finding = played(watch, 0.01, 1000, version=NEXT)
    assert finding is not None
    assert (finding.version, finding.to) == (NEXT, OLD)
    good = watched().promoted(NEXT, NEW, CFG).after(outcomes(NEW, draws(0.2, 300)), CFG).ended(CFG)
    assert good.vouched == NEW
    assert good.after(outcomes(NEXT, draws(0.0, 300)), CFG).finding("default", CFG) is not None


def test_nothing_is_found_on_fewer_answers_than_the_least() -> None:
    assert played(watched(), 0.0, 99) is None
    few = watched(num=99)
    assert (few.first, few.vouched, few.num_before) == (None, None, 99)


def test_answers_of_other_sources_and_those_since_which_nobody_did_anything_count_for_nothing() -> None:
    watch, nothing = watched(), [False] * 1000
    assert watch.after(outcomes(NEW, nothing, "popular"), CFG) == watch
    assert watch.after(outcomes(NEW, nothing, is_heard=False), CFG) == watch


def test_a_user_counts_once_a_step() -> None:
    watch = watched()
    many = [each for _ in range(500) for each in outcomes(NEW, [False])]
    assert watch.after(many, CFG).num == 1


def test_answers_of_versions_that_were_rolled_back_count_for_nothing() -> None:
    back = watched().after(outcomes(NEW, draws(0.02, 300)), CFG).went_back()
    assert (back.live, back.vouched) == (OLD, OLD)
    assert back.after(outcomes(NEW, draws(0.02, 300)), CFG) == back
    again = back.promoted(NEXT, OLD, CFG)
    assert again.after(outcomes(NEW, draws(0.02, 300)), CFG) == again
    assert again.vouched == OLD


def test_what_is_known_of_before_fades() -> None:
    watch = Watch(live=OLD)
    for _ in range(10):
        watch = watch.after(outcomes(OLD, draws(0.2, 1000)), CFG)
    assert watch.num_before == 2000


def test_a_guard_that_is_off_finds_nothing() -> None:
    off = CFG.model_copy(update={"guard_share": 0.0})
    assert played(watched(), 0.0, 1000, off) is None


@pytest.mark.parametrize(("share", "rate_before", "rate_since"), [(0.9, 0.3, 0.27), (0.9, 0.05, 0.045), (0.5, 0.2, 0.1), (0.9, 0.3, 0.3)])
def test_of_versions_that_hold_the_share_no_more_than_the_error_are_rolled_back(share: float, rate_before: float, rate_since: float) -> None:
    """At the very bound, looked at after each step, the reference itself a sample."""
    cfg = CFG.model_copy(update={"guard_share": share})
    found = [
        played(Watch(live=OLD).after(outcomes(OLD, draws(rate_before, 800, 1000 + seed)), cfg).promoted(NEW, OLD, cfg), rate_since, 1000, cfg, seed)
        for seed in range(150)
    ]
    assert sum(each is not None for each in found) / len(found) <= cfg.guard_error


@pytest.mark.parametrize(("rate", "most"), [(0.3, 300), (0.05, 2000)])
def test_a_collapse_is_found_within_the_watch_by_default(rate: float, most: int) -> None:
    cfg = RegistryConfig()
    found = [played(watched(rate, 4000, cfg), 0.1 * rate, most, cfg, seed) is not None for seed in range(40)]
    assert sum(found) >= 36
