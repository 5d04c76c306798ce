import numpy as np
import pytest

from streamrec.clock import ManualClock
from streamrec.errors import Damaged, ModelRejected
from streamrec.registry.deltas import Delta, NotFollowing
from streamrec.registry.version import digest_arrays
from streamrec.serving.recommender import Recommender
from streamrec.serving.slot import ModelSlot, check_probes


def manifest_of(version: str, arrays, meta, **changed):
    return {"version": version, "created_ms": 5, "digest": digest_arrays(arrays, meta), "offsets": {"events": {"0": 7}}, **changed}


def probes_of(arrays, meta, histories=((1, 2), (3,))):
    recommender = Recommender(arrays, meta)
    answers = [recommender.rank(np.array(history, np.int32), 5) for history in histories]
    return {
        "history": [list(history) for history in histories],
        "top": [rows.tolist() for rows, _ in answers],
        "score": [scores.tolist() for _, scores in answers],
    }


@pytest.fixture
def slot():
    return ModelSlot(digest_of=digest_arrays, clock=ManualClock(1_000))


@pytest.fixture
def first(slot, version):
    arrays, meta = version(20)
    return slot.load(manifest_of("v1", arrays, meta), arrays, meta)


def test_a_loaded_version_is_live_with_its_facts(slot, first):
    assert slot.current is first
    assert (first.version, first.created_ms, first.offsets) == ("v1", 5, {"events": {"0": 7}})
    assert slot.counters.swaps == 1


def test_a_second_version_keeps_the_first_for_a_rollback(slot, first, version):
    arrays, meta = version(24, seed=1)
    second = slot.load(manifest_of("v2", arrays, meta), arrays, meta)
    assert (slot.current, slot.previous) == (second, first)
    assert second.recommender.catalog is first.recommender.catalog

    assert slot.rollback() is first
    assert (slot.current, slot.previous) == (first, second)


def test_loading_the_previous_version_again_finds_it_warm(slot, first, version):
    arrays, meta = version(24, seed=1)
    second = slot.load(manifest_of("v2", arrays, meta), arrays, meta)
    arrays, meta = version(20)
    assert slot.load(manifest_of("v1", arrays, meta), arrays, meta) is first
    assert (slot.previous, slot.counters.loads, slot.counters.rollbacks) == (second, 2, 1)


def test_a_rollback_without_a_previous_version_says_so(slot, first):
    with pytest.raises(ModelRejected, match="no previous version"):
        slot.rollback()
    assert slot.current is first


def test_the_live_version_is_not_loaded_again(slot, first, version):
    arrays, meta = version(20)
    assert slot.load(manifest_of("v1", arrays, meta), arrays, meta) is first
    assert slot.previous is None


def test_another_lineage_gets_its_own_catalog(slot, first, version):
    arrays, meta = version(20, prefix="other")
    second = slot.load(manifest_of("v2", arrays, meta), arrays, meta)
    assert second.recommender.ids(np.array([0], np.int32)) == ["other-0"]
    assert first.recommender.ids(np.array([0], np.int32)) == ["item-0"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["item_vectors", "item_bias", "own_bias", "popularity"])
def test_weights_that_are_not_finite_are_refused_and_the_live_version_goes_on(slot, first, version, name, bad):
    arrays, meta = version(20)
    arrays[name].flat[0] = bad
    with pytest.raises(ModelRejected, match=name):
        slot.load(manifest_of("v2", arrays, meta), arrays, meta)
    assert slot.current is first
    assert slot.last_rejection is not None
    assert (slot.last_rejection.version, slot.last_rejection.at_ms) == ("v2", 1_000)
    assert name in slot.last_rejection.reason
    assert slot.counters.rejected == 1


def test_another_digest_than_stated_is_refused(slot, first, version):
    arrays, meta = version(20)
    stated = manifest_of("v2", arrays, meta)
    arrays["item_bias"][0] += 1
    with pytest.raises(ModelRejected, match="digest"):
        slot.load(stated, arrays, meta)
    assert slot.current is first


def test_probes_that_are_answered_as_expected_pass(slot, first, version):
    arrays, meta = version(20, seed=2)
    slot.load(manifest_of("v2", arrays, meta, probes=probes_of(arrays, meta)), arrays, meta)
    assert slot.current is not first


@pytest.mark.parametrize("what", ["score", "top"])
def test_a_probe_that_is_answered_otherwise_is_refused(slot, first, version, what):
    arrays, meta = version(20, seed=2)
    probes = probes_of(arrays, meta)
    probes[what][1][0] += 1
    with pytest.raises(ModelRejected, match="probe 1"):
        slot.load(manifest_of("v2", arrays, meta, probes=probes), arrays, meta)
    assert slot.current is first


def test_probe_items_with_nearly_equal_scores_may_change_places(version):
    arrays, meta = version(20)
    probes = probes_of(arrays, meta, histories=[[4]])
    arrays["item_vectors"][probes["top"][0][1]] = arrays["item_vectors"][probes["top"][0][0]]
    arrays["item_bias"][probes["top"][0][1]] = arrays["item_bias"][probes["top"][0][0]] + 1e-5
    probes["score"][0][1] = probes["score"][0][0]
    check_probes(Recommender(arrays, meta), probes)


@pytest.mark.parametrize(("num_found", "is_refused"), [(10, False), (6, False), (4, True)])
def test_probes_of_a_large_catalogue_ask_for_exact_scores_and_most_items(version, monkeypatch, num_found, is_refused):
    arrays, meta = version(60)
    probes, rank = probes_of(arrays, meta), Recommender.rank
    monkeypatch.setattr(Recommender, "is_exact", lambda *_: False)

    def missing_some(self, history, n, *args, **kwargs):
        rows, scores = rank(self, history, n + 10, *args, **kwargs)
        kept = np.r_[: num_found // 2, n : n + n - num_found // 2]
        return rows[kept], scores[kept]

    monkeypatch.setattr(Recommender, "rank", missing_some)
    if is_refused:
        with pytest.raises(ModelRejected, match="does not find the items that probes expect, got 4 of 10"):
            check_probes(Recommender(arrays, meta), probes)
    else:
        check_probes(Recommender(arrays, meta), probes)
    probes["score"][1][0] += 1
    with pytest.raises(ModelRejected, match="probe 1"):
        check_probes(Recommender(arrays, meta), probes)


def test_a_version_that_can_not_be_built_is_refused_with_the_reason(slot, first, version):
    arrays, meta = version(20)
    arrays["item_id_bytes"] = np.full_like(arrays["item_id_bytes"], 0xFF)
    with pytest.raises(ModelRejected, match="v2"):
        slot.load({"version": "v2"}, arrays, meta)
    assert slot.current is first


def test_a_manifest_without_a_version_is_refused(slot, version):
    with pytest.raises(ModelRejected, match="names no version"):
        slot.load({}, *version(20))
    assert slot.current is None


def test_warming_up_comes_before_the_swap_and_its_failure_stops_it(version):
    seen = []

    def warm_up(model):
        seen.append((model.version, slot.current))
        if model.version == "v2":
            msg = "cold"
            raise ValueError(msg)

    slot = ModelSlot(warm_up=warm_up)
    arrays, meta = version(20)
    first = slot.load({"version": "v1"}, arrays, meta)
    with pytest.raises(ModelRejected, match="cold"):
        slot.load({"version": "v2"}, arrays, meta)
    assert seen == [("v1", None), ("v2", first)]
    assert slot.current is first


def test_whoever_wants_to_know_is_told_of_each_version_that_answers_from_now_on(version):
    told = []
    slot = ModelSlot(swapped=lambda model: told.append((model.version, slot.current.version)))
    arrays, meta = version(20)
    for name in ("v1", "v1", "v2"):
        slot.load({"version": name}, arrays, meta)
    with pytest.raises(ModelRejected):
        slot.load({"version": "v3", "digest": "another"}, {}, meta)
    slot.rollback()
    assert told == [("v1", "v1"), ("v2", "v2"), ("v1", "v1")]


def following(old, new, meta):
    delta = Delta.between(digest_arrays(old, meta), old, digest_arrays(new, meta), new, meta)
    assert delta is not None
    return delta


@pytest.fixture
def grown(version):
    """A version, one that follows it, one that follows that, and their meta."""
    old, meta = version(40)
    versions = [old]
    for seed in (1, 2):
        new = {name: array.copy() for name, array in versions[-1].items()}
        new["item_vectors"][seed : seed + 3] *= -1
        new["item_bias"][seed] += 1
        versions.append(new)
    return (*versions, meta)


def test_a_version_that_deltas_give_answers_as_one_that_came_whole_and_keeps_the_one_before(slot, grown):
    old, new, newest, meta = grown
    first = slot.load(manifest_of("v1", old, meta), old, meta)
    live = slot.load_deltas(
        manifest_of("v3", newest, meta, probes=probes_of(newest, meta)), [following(old, new, meta), following(new, newest, meta)]
    )
    assert (slot.current, slot.previous) == (live, first)
    assert (live.version, live.digest, live.created_ms) == ("v3", digest_arrays(newest, meta), 5)
    assert slot.held == [digest_arrays(newest, meta), digest_arrays(old, meta)]
    whole = Recommender(newest, meta)
    for row in range(40):
        history = np.array([row], np.int32)
        for mine, theirs in zip(live.recommender.rank(history, 40), whole.rank(history, 40), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_delta_may_follow_the_previous_version_as_after_a_rollback(slot, grown):
    old, new, newest, meta = grown
    slot.load(manifest_of("v1", old, meta), old, meta)
    slot.load_deltas(manifest_of("v2", new, meta), [following(old, new, meta)])
    slot.rollback()
    assert slot.load_deltas(manifest_of("v3", newest, meta), [following(new, newest, meta)]).digest == digest_arrays(newest, meta)
    assert slot.previous.version == "v1"


def test_a_version_that_is_held_under_another_name_needs_no_delta(slot, first, version):
    arrays, meta = version(20)
    slot.warm_up = lambda _: pytest.fail("it answers requests")
    second = slot.load_deltas(manifest_of("v2", arrays, meta, probes=probes_of(arrays, meta)), [])
    assert (second.version, second.recommender is first.recommender) == ("v2", True)


def test_a_delta_of_a_version_that_is_not_held_is_not_taken_and_nothing_counts_as_refused(slot, grown, monkeypatch):
    old, new, newest, meta = grown
    first = slot.load(manifest_of("v1", old, meta), old, meta)
    for deltas in ([following(new, newest, meta)], []):
        with pytest.raises(NotFollowing, match="follows one that is not held"):
            slot.load_deltas(manifest_of("v3", newest, meta), deltas)

    def misfit(_, __):
        what = "it does not fit"
        raise Damaged(what)

    monkeypatch.setattr(Recommender, "updated", misfit)
    with pytest.raises(NotFollowing, match="can't be made from a delta"):
        slot.load_deltas(manifest_of("v2", new, meta), [following(old, new, meta)])
    assert (slot.current, slot.counters.rejected, slot.last_rejection) == (first, 0, None)


def test_what_changed_is_checked_before_it_goes_live(slot, grown):
    old, new, newest, meta = grown
    first = slot.load(manifest_of("v1", old, meta), old, meta)
    probes = probes_of(newest, meta)
    with pytest.raises(ModelRejected, match="probe 0"):
        slot.load_deltas(manifest_of("v2", new, meta, probes=probes), [following(old, new, meta)])
    new["item_vectors"][7, 0] = np.nan
    with pytest.raises(ModelRejected, match="item_vectors"):
        slot.load_deltas(manifest_of("v2", new, meta), [following(old, new, meta)])
    assert (slot.current, slot.counters.rejected) == (first, 2)
