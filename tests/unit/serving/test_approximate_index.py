"""Versions that share slots: each finds its own rows, whatever others write meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.serving import approximate_index, slots, waiting
from streamrec.serving.approximate_index import ApproximateIndex, build_approximate
from streamrec.serving.index import ExactIndex

NO_ROWS = np.empty(0, np.int32)
NO_BIAS = np.empty(0, np.float32)


@pytest.fixture(autouse=True, scope="module", params=[0, 2**30], ids=["rounded codes", "exact codes"])
def codes(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "EXACT_BYTES", request.param)
        yield


def rows_of(rng, num, dim=16, clusters=0):
    """Unit vectors and biases; in clusters if asked for."""
    around = rng.normal(size=(clusters, dim))[rng.integers(0, clusters, num)] if clusters else 0
    vectors = (around + (0.3 if clusters else 1.0) * rng.normal(size=(num, dim))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rng.normal(scale=0.3, size=num).astype(np.float32)


def sample(index):
    """Queries near rows."""
    return 9 * index.vectors(np.random.default_rng(3).integers(0, len(index), 64).astype(np.int32))


@contextmanager
def reading_all_lists(by_hand: int = 0) -> Iterator[None]:
    """Search so widely that only codes are approximate, which scoring again makes up for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate_index, "BY_HAND_ROWS", by_hand)
        patch.setattr(approximate_index, "_TARGET", 2.0)
        patch.setattr(approximate_index, "_ENOUGH", 2.0)
        yield


def same(one, other):
    """Items of the same score, as far as sums in another order tell, may change places."""
    np.testing.assert_allclose(one[1], other[1], atol=1e-5)
    assert len(set(one[0].tolist())) == len(one[0])
    differing = one[0] != other[0]
    if differing.any():
        last = one[1][-1]
        scores = [dict(zip(*(part.tolist() for part in answer), strict=True)) for answer in (one, other)]
        for position in {*one[0][differing].tolist(), *other[0][differing].tolist()}:
            assert abs(scores[0].get(position, last) - scores[1].get(position, last)) < 1e-5


def asked(rng, num):
    own = rng.integers(0, num, rng.integers(1, 8)).astype(np.int32)
    query = (9 * rows_of(rng, 1)[0][0]).astype(np.float32)
    return query, own, rng.normal(scale=2, size=len(own)).astype(np.float32), rng.integers(0, num, rng.integers(0, 30)).astype(np.int32)


@contextmanager
def waiting_from(least: int) -> Iterator[None]:
    """Let so few changed rows wait for the lists, and enter them in small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate_index, "LEAST_WAITING", least)
        patch.setattr(waiting, "_AT_ONCE", 16)
        yield


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 30, 1000]))
@settings(deadline=None, max_examples=60)
def test_each_of_several_versions_answers_as_an_exact_index_of_its_own_rows(seed, num_versions, least_waiting):
    rng = np.random.default_rng(seed)
    with reading_all_lists(), waiting_from(least_waiting):
        exact = [ExactIndex(*rows_of(rng, 200))]
        near: list[ApproximateIndex] = [build_approximate(*(getattr(exact[0], name)(np.arange(200)) for name in ("vectors", "bias")), sample)]
        for _ in range(num_versions):
            old = len(exact[-1])
            changed = np.concatenate([np.sort(rng.choice(old, rng.integers(0, 60), replace=False)), np.arange(old, old + rng.integers(0, 5))])
            told = (changed.astype(np.int32), *rows_of(rng, len(changed)), sample)
            exact, near = [*exact, exact[-1].updated(*told)], [*near, near[-1].updated(*told)]
            mask = rng.random(len(exact[-1])) < rng.choice([0.0, 0.01, 0.5])
            for one in (exact[-1], near[-1]):
                one.leave_out(mask)
            for _ in range(rng.integers(0, 4)):
                near[-1].settle()
            if rng.random() < 0.3:  # Older ones die.
                exact, near = exact[-2:], near[-2:]
        for one, other in zip(exact, near, strict=True):
            for n in (1, 20, 150):
                question = asked(rng, len(one))
                same(other.search(*question, n), one.search(*question, n))
                among = np.sort(rng.choice(len(one), rng.integers(0, len(one)), replace=False)).astype(np.int32)
                same(other.search_among(*question, n, among), one.search_among(*question, n, among))
            direction = rows_of(rng, 1)[0][0]
            np.testing.assert_allclose(other.cosines(direction), one.cosines(direction), atol=1e-5)


def test_after_an_update_and_back_the_version_before_answers_bit_for_bit_as_before():
    rng = np.random.default_rng(0)
    first = build_approximate(*rows_of(rng, 9000, clusters=200), sample)
    questions = [asked(rng, 9000) for _ in range(50)]
    before = [[part.tobytes() for part in first.search(*question, 20)] for question in questions]
    changed = np.sort(rng.choice(9000, 2000, replace=False)).astype(np.int32)
    second = first.updated(changed, *rows_of(rng, 2000, clusters=50), sample)
    third = second.updated(changed, *rows_of(rng, 2000, clusters=50), sample)
    assert [[part.tobytes() for part in first.search(*question, 20)] for question in questions] == before
    assert {index.chosen for index in (first, second, third)} == {first.chosen}


def test_a_new_row_is_found_at_once_and_only_by_the_version_that_has_it():
    rng = np.random.default_rng(0)
    vectors, bias = rows_of(rng, 9000, clusters=200)
    first = build_approximate(vectors, bias, sample)
    query = rows_of(rng, 1)[0]
    second = first.updated(np.array([17, 9000], np.int32), np.concatenate([query, query]), np.zeros(2, np.float32), sample)
    best, scores = second.search(9 * query[0], NO_ROWS, NO_BIAS, NO_ROWS, 2)
    assert best.tolist() == [17, 9000]
    np.testing.assert_allclose(scores, [9, 9], atol=1e-5)
    assert not {17, 9000} & set(first.search(9 * query[0], NO_ROWS, NO_BIAS, NO_ROWS, 20)[0].tolist())


def test_what_an_index_finds_of_clustered_rows_is_what_it_says_it_measured():
    rng = np.random.default_rng(0)
    vectors, bias = rows_of(rng, 20_000, clusters=500)
    near, exact = build_approximate(vectors, bias, sample), ExactIndex(vectors, bias)
    assert near.chosen.overlap >= 0.995
    assert near.facts() == {"kind": "lists", "overlap": round(near.chosen.overlap, 4), "lists": 512, "read": near.chosen.num_probes}
    assert near.chosen.num_probes < slots.num_lists(20_000) // 4
    for n, least in ((20, 0.98), (100, 0.9), (500, 0.85)):
        questions = [asked(rng, 20_000) for _ in range(50)]
        # Queries of sessions: near a row.
        questions = [(9 * vectors[question[1][0]], *question[1:]) for question in questions]
        found = [(near.search(*question, n)[0], exact.search(*question, n)[0]) for question in questions]
        assert all(len(rows) == n for rows, _ in found)
        assert np.mean([len(np.intersect1d(*pair)) / n for pair in found]) >= least


def test_rows_without_any_order_cost_more_lists_and_are_found_all_the_same():
    rng = np.random.default_rng(0)
    near = build_approximate(*rows_of(rng, 9000), sample)
    assert near.chosen.num_probes > 8
    assert near.chosen.overlap >= 0.995


@pytest.mark.parametrize("num_left", [0, 3, 19, 400, 8000])
def test_an_answer_is_never_shorter_than_it_has_to_be(num_left):
    rng = np.random.default_rng(num_left)
    vectors, bias = rows_of(rng, 9000, clusters=200)
    near = build_approximate(vectors, bias, sample)
    mask = np.ones(9000, np.bool_)
    mask[rng.choice(9000, num_left, replace=False)] = False
    near.leave_out(mask)
    left = np.flatnonzero(~mask).astype(np.int32)
    for n in (20, 500):
        for _ in range(10):
            query, own, own_bias, excluded = asked(rng, 9000)
            allowed = np.setdiff1d(left, excluded)
            for best, _ in (near.search(query, own, own_bias, excluded, n), near.search_among(query, own, own_bias, excluded, n, left)):
                assert len(set(best.tolist())) == len(best) == min(n, len(allowed))
                assert set(best.tolist()) <= set(allowed.tolist())


def test_a_row_that_is_left_out_for_one_version_is_found_by_another():
    rng = np.random.default_rng(0)
    first = build_approximate(*rows_of(rng, 9000, clusters=200), sample)
    query = asked(rng, 9000)[0]
    best = int(first.search(query, NO_ROWS, NO_BIAS, NO_ROWS, 1)[0][0])
    second = first.updated(np.array([best + 1], np.int32), *rows_of(rng, 1), sample)
    mask = np.arange(9000) == best
    second.leave_out(mask)
    assert first.search(query, NO_ROWS, NO_BIAS, NO_ROWS, 1)[0].tolist() == [best]
    assert second.search(query, NO_ROWS, NO_BIAS, NO_ROWS, 1)[0].tolist() != [best]
    third = second.updated(NO_ROWS, np.empty((0, 16), np.float32), NO_BIAS, sample)  # It goes on being left out.
    assert third.search(query, NO_ROWS, NO_BIAS, NO_ROWS, 1)[0].tolist() != [best]
    third.leave_out(np.zeros(9000, np.bool_))
    assert third.search(query, NO_ROWS, NO_BIAS, NO_ROWS, 1)[0].tolist() == [best]


def test_nothing_grows_while_two_versions_live_and_what_does_not_fit_gets_slots_of_its_own():
    rng = np.random.default_rng(0)
    live = build_approximate(*rows_of(rng, 3000, clusters=50), sample)
    shared, previous = live._slots, None
    for _ in range(30):
        changed = np.sort(rng.choice(3000, 300, replace=False)).astype(np.int32)
        previous, live = live, live.updated(changed, *rows_of(rng, 300, clusters=50), sample)
    assert live._slots is shared
    assert shared.num_used <= 3000 + 2 * 300
    everything = np.arange(3000, dtype=np.int32)
    vectors, bias = rows_of(rng, 3000, clusters=50)
    mask = everything < 10
    live.leave_out(mask)
    rewritten = live.updated(everything, vectors, bias, sample)
    assert rewritten._slots is not shared
    exact = ExactIndex(vectors, bias)
    exact.leave_out(mask)
    question = asked(rng, 3000)
    same(rewritten.search(*question, 20), exact.search(*question, 20))
    assert previous is not None
    assert previous._slots is shared


def test_versions_are_asked_while_the_next_ones_are_written():
    rng = np.random.default_rng(0)
    vectors, bias = rows_of(rng, 9000, clusters=200)
    live = build_approximate(vectors, bias, sample)
    exact = ExactIndex(vectors, bias)
    questions = [(9 * vectors[row], NO_ROWS, NO_BIAS, NO_ROWS) for row in rng.integers(0, 9000, 40)]
    expected = [set(exact.search(*question, 20)[0].tolist()) for question in questions]
    stop, failures, overlaps = threading.Event(), [], []

    def ask() -> None:
        try:
            while not stop.is_set():
                for question, best in zip(questions, expected, strict=True):
                    rows, scores = live.search(*question, 20)
                    np.testing.assert_allclose(scores, vectors[rows] @ question[0] + bias[rows], atol=1e-4)
                    overlaps.append(len(best & set(rows.tolist())) / 20)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        candidate = live
        for number in range(20):
            changed = np.sort(rng.choice(9000, 1000, replace=False)).astype(np.int32)
            candidate = (live if number % 2 else candidate).updated(changed, *rows_of(rng, 1000, clusters=100), sample)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert np.mean(overlaps) > 0.97


def test_what_waits_is_found_before_while_and_after_it_enters_lists_and_only_once():
    rng = np.random.default_rng(0)
    vectors, bias = rows_of(rng, 6000)
    with reading_all_lists(), waiting_from(1):
        older = build_approximate(vectors, bias, sample)
        changed = np.sort(rng.choice(6000, 2500, replace=False)).astype(np.int32)
        told = (np.append(changed, np.arange(6000, 6100)).astype(np.int32), *rows_of(rng, 2600), sample)
        live, exact = older.updated(*told), ExactIndex(vectors, bias).updated(*told)
        assert live._slots.num_waiting == 2600
        questions = [asked(rng, 6100) for _ in range(20)]
        expected = [exact.search(*question, 20) for question in questions]
        stop, failures, num_asked = threading.Event(), [], 0

        def ask() -> None:
            nonlocal num_asked
            try:
                while not stop.is_set() or num_asked < 100:
                    same(live.search(*questions[num_asked % 20], 20), expected[num_asked % 20])
                    num_asked += 1
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        num_settled = 1
        while live.settle():
            num_settled += 1
        stop.set()
        thread.join()
    assert failures == []
    assert (num_settled, live._slots.num_waiting) == (-(-2600 // 16), 0)
    assert not live.settle()


def test_few_rows_enter_at_once_and_beyond_the_most_only_the_most_wait():
    rng = np.random.default_rng(0)
    first = build_approximate(*rows_of(rng, 3000, clusters=50), sample)

    def waiting_after(num: int) -> int:
        first.updated(np.arange(num, dtype=np.int32), *rows_of(rng, num, clusters=50), sample)
        waiting = first._slots.num_waiting
        while first.settle():
            pass
        return waiting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate_index, "LEAST_WAITING", 100)
        patch.setattr(approximate_index, "MOST_WAITING", 600)
        assert [waiting_after(num) for num in (0, 99, 100, 600, 1400)] == [0, 0, 100, 600, 1400 - 2 * 512]


def test_what_a_version_left_waiting_when_it_died_is_no_hole_in_the_slots():
    rng = np.random.default_rng(0)
    with reading_all_lists(), waiting_from(1):
        vectors, bias = rows_of(rng, 300)
        live = build_approximate(vectors, bias, sample)
        grown = np.arange(250, 340, dtype=np.int32)
        given_up = live.updated(grown, *rows_of(rng, 90), sample)
        given_up.settle()
        del given_up
        told = (grown, *rows_of(rng, 90), sample)
        question = asked(rng, 340)
        same(live.updated(*told).search(*question, 20), ExactIndex(vectors, bias).updated(*told).search(*question, 20))


def test_a_request_waits_for_a_few_rows_at_most_however_many_are_written(monkeypatch):
    rng = np.random.default_rng(0)
    live = build_approximate(*rows_of(rng, 3000, clusters=50), sample)
    question = asked(rng, 3000)
    held: list[int] = []

    class Watched:
        """Asks whenever it is let go: a request that waits comes in between any two pieces."""

        def __init__(self) -> None:
            self.lock, self.entered = threading.Lock(), 0

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()
            self.entered += 1

    watched = Watched()
    monkeypatch.setattr(live._slots, "_lock", watched)
    for _ in range(3):
        before = watched.entered
        live = live.updated(np.arange(1000, dtype=np.int32), *rows_of(rng, 1000, clusters=50), sample)
        held.append(watched.entered - before)
        live.search(*question, 20)
    assert min(held) >= 1000 / 128
