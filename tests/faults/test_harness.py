"""The harness can fail: it sees windows that were missed, kills that were never made, runs that hang, and a comparison that is blind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamrec.config import Config
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.dead_letters import dead_letters
from streamrec.testing.chaos.__main__ import verdict
from streamrec.testing.chaos.campaign import MUST_DIFFER, Campaign, last_words
from streamrec.testing.chaos.compare import differences, fingerprint
from streamrec.testing.chaos.disturbed import Disturbed, Missed, Tally
from streamrec.testing.chaos.kills import OTHERS, Kill, Target
from streamrec.testing.chaos.records import make_records
from streamrec.testing.chaos.reference import Reference, play
from streamrec.testing.chaos.replica import Replica
from streamrec.testing.chaos.rig import Rig
from streamrec.testing.chaos.victim import Ended, Hit, Victim
from streamrec.testing.chaos.world import make_config, make_plans
from streamrec.testing.failpoints import Failpoint

RIG = cast("Rig", SimpleNamespace(ray_address="nowhere"))


class Script:
    """A process that passes the failpoints of a script; a killed one begins with the next script."""

    def __init__(self, *scripts: list[Hit | Ended | None]) -> None:
        self.scripts = list(scripts)
        self.left: list[Hit | Ended | None] = []

    def start(self, *_: Any) -> Victim:
        self.left = self.scripts.pop(0)
        return cast("Victim", self)

    def next(self, timeout_s: float) -> Hit | Ended | None:
        del timeout_s
        return self.left.pop(0)

    def go(self) -> None:
        """It never waits."""

    def kill(self) -> None:
        """The next script begins when it is started again."""


def disturbed(tmp_path: Path, tally: Tally, *scripts: list[Hit | Ended | None]) -> Disturbed:
    return Disturbed(RIG, Config(state=str(tmp_path / "state")), tally, lambda _: None, Script(*scripts).start)


READ_2 = Kill(Target.CONTROLLER, Failpoint.READ, 2)


def test_a_kill_in_its_window_is_counted(tmp_path: Path) -> None:
    tally = Tally()
    one = disturbed(tmp_path, tally, [Hit(Failpoint.READ, 1), Hit(Failpoint.READ, 2)], [Hit(Failpoint.READ, 2), Ended()])
    one.play([READ_2])
    assert tally.targets == {"controller": 1}
    assert tally.failpoints == {"READ": 1}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([Hit(Failpoint.READ, 1), Hit(Failpoint.READ, 3)], "the window of .* went by"),
        ([Hit(Failpoint.READ, 1), Ended()], "was never reached: the run is over"),
        ([Hit(Failpoint.READ, 1), Ended("StorageError: no")], "was never reached: StorageError: no"),
        ([None], "was never reached: nothing happens any more"),
    ],
)
def test_a_failpoint_that_is_never_hit_inside_its_window_fails_the_run(tmp_path: Path, script: list[Hit | Ended | None], says: str) -> None:
    tally = Tally()
    with pytest.raises(Missed, match=says):
        disturbed(tmp_path, tally, script).play([READ_2])
    assert tally.targets.total() == 0


@pytest.mark.parametrize(("end", "says"), [(None, "nothing happens any more"), (Ended("Fenced: gone"), "Fenced: gone")])
def test_a_run_that_hangs_or_fails_after_its_kills_fails(tmp_path: Path, end: Ended | None, says: str) -> None:
    with pytest.raises(Missed, match=f"the run did not end: {says}"):
        disturbed(tmp_path, Tally(), [Hit(Failpoint.READ, 2)], [Hit(Failpoint.READ, 2), end]).play([READ_2])


def test_a_worker_that_a_busy_machine_starts_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.testing.chaos.disturbed.wait_for", lambda look, timeout_s: 4711 if timeout_s > 10 else look())
    killed: list[int] = []
    monkeypatch.setattr("streamrec.testing.chaos.disturbed.kill", killed.append)
    rig = cast("Rig", SimpleNamespace(ray_address="nowhere", worker_of=lambda *_: None))
    tally, script = Tally(), Script([Hit(Failpoint.PLAN_DURABLE, 1), Ended()])
    one = Disturbed(rig, Config(state=str(tmp_path / "state")), tally, lambda _: None, script.start)
    one.play([Kill(Target.DATA_WORKER, Failpoint.PLAN_DURABLE, 1)])
    assert killed == [4711]
    assert tally.targets == {"Ray Data worker": 1}


def complete() -> Tally:
    everything = Counter(target.value for target in (Target.CONTROLLER, *OTHERS))
    return Tally(targets=everything, failpoints=Counter(failpoint.name for failpoint in Failpoint), runs=1)


def test_a_campaign_that_hit_everything_and_saw_no_difference_passes() -> None:
    tally = complete()
    result, status = verdict(tally, tally.targets.total())
    assert (status, result["missed"], result["is_complete"]) == (0, [], True)


@pytest.mark.parametrize("failpoint", list(Failpoint))
def test_a_campaign_fails_if_a_failpoint_was_never_hit(failpoint: Failpoint) -> None:
    tally = complete()
    del tally.failpoints[failpoint.name]
    result, status = verdict(tally, tally.targets.total())
    assert (status, result["missed"]) == (1, [failpoint.name])


@pytest.mark.parametrize("target", OTHERS)
def test_a_campaign_fails_if_something_was_never_killed(target: Target) -> None:
    tally = complete()
    del tally.targets[target.value]
    result, status = verdict(tally, tally.targets.total())
    assert (status, result["missed"]) == (1, [target.value])


def test_a_campaign_that_saw_a_difference_fails_whether_it_is_complete_or_not() -> None:
    tally = complete()
    tally.mismatches.append("books: applied: wanted 3, got 2")
    assert verdict(tally, tally.targets.total())[1] == verdict(tally, 1000)[1] == 1
    assert verdict(complete(), 1000)[1] == 0  # Broken off: it goes on with the same seed.


class Played(Campaign):
    """A campaign whose undisturbed runs are given."""

    def __init__(self, *fingerprints: dict[str, Any]) -> None:
        super().__init__(RIG, lambda _: None)
        self.fingerprints = list(fingerprints)

    def replayed(self, through: Callable[[Any], Any], *, with_transformer: bool) -> Reference:
        del through, with_transformer
        return Reference(self.fingerprints.pop(0), {})


NAMES = sorted({name for names in MUST_DIFFER.values() for name in names})
WHOLE: dict[str, Any] = dict.fromkeys(NAMES, 1)
SEEN = [dict.fromkeys(names, 2) for names in MUST_DIFFER.values()]


def test_a_comparison_that_sees_everything_that_is_removed_everywhere_is_proven() -> None:
    campaign = Played(WHOLE, WHOLE, *SEEN)
    assert campaign.prove(with_transformer=False) == []
    assert campaign.tally.mismatches == []


@pytest.mark.parametrize(("what", "blind"), [(what, name) for what, names in MUST_DIFFER.items() for name in names])
def test_a_comparison_that_still_passes_when_something_is_removed_fails_the_campaign(what: str, blind: str) -> None:
    seen = [{**WHOLE, **dict.fromkeys(names, 2), **({blind: 1} if removed == what else {})} for removed, names in MUST_DIFFER.items()]
    campaign = Played(WHOLE, WHOLE, *seen)
    assert campaign.prove(with_transformer=False) == [f"the comparison still passes for {blind} when {what} is removed"]
    assert verdict(campaign.tally, 1)[1] == 1


def test_undisturbed_runs_that_differ_fail_the_campaign() -> None:
    campaign = Played(WHOLE, {**WHOLE, "books": 3}, *SEEN)
    assert campaign.prove(with_transformer=False) == ["two undisturbed runs differ in books: wanted 1, got 3"]
    assert verdict(campaign.tally, 1)[1] == 1


def test_a_run_that_lacks_a_dead_letter_differs_and_one_that_sent_it_twice_does_not(tmp_path: Path) -> None:
    config, log = make_config(str(tmp_path / "1"), "local"), MemoryLog()
    letters, events = config.log.dead_letter_topic, config.log.events_topic
    log.ensure_topic(events, config.log.num_partitions)
    log.append(events, make_records())
    wanted = play(config, make_plans(config, log.latest(events), with_transformer=False)[:4], log).fingerprint
    assert len(wanted["dead letters"]) == wanted["books"]["rejected"] > 0
    rejected = {"detail": "", "key": b"u", "value": b"{"}
    places = [dict(zip(("topic", "partition", "offset", "reason"), place, strict=True)) for place in wanted["dead letters"]]
    sent = [record for place in places for record in dead_letters({**place, **rejected})]
    for records, differs in (([*sent, sent[0]], set()), (sent[1:], {"dead letters"})):
        run = MemoryLog()
        run.ensure_topic(letters, 1)
        run.append(letters, records)
        assert differences(wanted, fingerprint(config, config.state, run)).keys() == differs


def test_each_run_has_dead_letters_of_its_own() -> None:
    assert len({make_config(f"/states/{number}", "local").log.dead_letter_topic for number in range(3)}) == 3


def test_a_replica_that_went_back_or_never_caught_up_is_a_difference() -> None:
    promoted = ["v1", "v2", "v3"]
    assert Replica.judge(["v1", "v3"], [], promoted, "v3") == []
    assert Replica.judge(["v2", "v3"], ["not finite"], promoted, "v3") == ["replica: refused a version: not finite"]
    assert Replica.judge(["v1", "v2"], [], promoted, "v3") == ["replica: wanted v3 to be served at the end, got ['v2']"]
    assert Replica.judge(["v1", "v2", "v1", "v3"], [], promoted, "v3") == [
        "replica: wanted versions in the order of ['v1', 'v2', 'v3'], got ['v1', 'v2', 'v1', 'v3']"
    ]


def test_why_a_process_crashed_is_told_before_what_it_printed_after() -> None:
    frames = "".join(f"  File module{number}.py\n" for number in range(1000))
    assert "Fatal Python error: Segmentation fault" in last_words(f"step 1\nFatal Python error: Segmentation fault\n{frames}")
    assert "the very end" in last_words(f"{frames}the very end")
