from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamrec.config import LinearConfig
from streamrec.errors import RegistryError
from streamrec.evaluation.ranking import UNRANKED
from streamrec.features.examples import Examples
from streamrec.soft_labels.ensemble import LENGTH_BOUNDS, MOST_OBSERVED, WINDOW, Ensemble, mix
from streamrec.soft_labels.schema import PROBE_FACTORS, TeacherScores, answers_of
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.teachers.kinds import load_teacher
from streamrec.teachers.store import TeacherStore

NUM_ITEMS = 12


def some_examples(num: int, seed: int = 0, namespaces: int = 1) -> Examples:
    rng = np.random.default_rng(seed)
    namespace = (np.arange(num) % namespaces).astype(np.int32)
    rows = rng.integers(0, NUM_ITEMS // namespaces, (num, 4)) * namespaces + namespace[:, None]
    history = np.where(np.arange(4)[None, :] < rng.integers(1, 5, num)[:, None], rows, -1).astype(np.int32)
    targets = (rng.integers(0, NUM_ITEMS // namespaces, num) * namespaces + namespace).astype(np.int32)
    return Examples(history, np.arange(num + 1), targets, np.ones(num, np.float32), np.arange(num), namespace)


def planted(examples: Examples, sharpness: float, seed: int | None = None, version: str = "v1") -> TeacherScores:
    """A teacher whose logits favour each query's target; with a seed, a random item instead."""
    logits = np.zeros((len(examples), NUM_ITEMS), np.float32)
    favoured = examples.target_rows if seed is None else np.random.default_rng(seed).integers(0, NUM_ITEMS, len(examples))
    logits[np.arange(len(examples)), favoured] = sharpness
    norm = np.log(np.exp(logits).sum(1)).astype(np.float32)
    order = np.argsort(-logits, 1, kind="stable")[:, :5].astype(np.int32)
    target = logits[np.arange(len(examples)), examples.target_rows]
    probe = {factor: float((target / factor - np.log(np.exp(logits / factor).sum(1))).mean()) for factor in PROBE_FACTORS}
    return TeacherScores(version, order, np.take_along_axis(logits, order, 1), norm, target, np.zeros(len(examples), np.int32), 1.0, probe)


def test_weights_find_the_good_teacher_and_sum_to_one_in_each_bucket() -> None:
    ensemble = Ensemble()
    for seed in range(60):
        data = some_examples(200, seed)
        ensemble.observe(data, {"good": planted(data, 3.0), "bad": planted(data, 3.0, seed)}, None, NUM_ITEMS)
    weights = ensemble.weights(["good", "bad"])
    np.testing.assert_allclose(np.sum(list(weights.values()), 0), 1.0)
    assert min(weights["good"][:3]) > 0.9
    assert len(weights["good"]) == len(LENGTH_BOUNDS) + 1
    assert min(weights["bad"]) > 0


def test_weights_follow_the_newest_targets_within_a_window() -> None:
    ensemble = Ensemble()
    for seed in range(60):
        data = some_examples(200, seed)
        right, wrong = planted(data, 3.0), planted(data, 3.0, seed)
        ensemble.observe(data, {"was good": right, "is good": wrong} if seed < 30 else {"was good": wrong, "is good": right}, None, NUM_ITEMS)
    assert min(ensemble.weights(["was good", "is good"])["is good"][:3]) > 0.9


def test_a_basket_of_many_targets_does_not_crowd_out_the_batches_before() -> None:
    ensemble, data = Ensemble(), some_examples(MOST_OBSERVED * 3)
    ensemble.observe(data, {"t": planted(data, 3.0)}, None, NUM_ITEMS)
    assert len(ensemble.snapshot().arrays["likelihood"]) == MOST_OBSERVED
    for _ in range(WINDOW // MOST_OBSERVED + 1):
        ensemble.observe(data, {"t": planted(data, 3.0)}, None, NUM_ITEMS)
    assert len(ensemble.snapshot().arrays["likelihood"]) == WINDOW


def test_a_teacher_that_comes_later_begins_a_window_of_its_own_with_the_others() -> None:
    ensemble = Ensemble()
    for seed in range(40):
        data = some_examples(200, seed)
        useless = {"bad": planted(data, 3.0, seed)}
        ensemble.observe(data, useless if seed < 20 else {**useless, "new": planted(data, 3.0)}, None, NUM_ITEMS)
    assert min(ensemble.weights(["bad", "new"])["new"][:3]) > 0.9


def test_temperatures_move_towards_what_predicts_and_stand_still_when_nothing_is_known() -> None:
    sharp, soft, still = Ensemble(), Ensemble(), Ensemble()
    data = some_examples(100)
    sharp.observe(data, {"t": planted(data, 2.0)}, None, NUM_ITEMS)
    soft.observe(data, {"t": planted(data, 5.0, 3)}, None, NUM_ITEMS)
    assert sharp.temperatures(["t"])["t"] == pytest.approx(min(PROBE_FACTORS))
    assert soft.temperatures(["t"])["t"] == pytest.approx(max(PROBE_FACTORS))
    blind = planted(data, 1.0)
    nothing = np.full(100, -np.inf, np.float32)
    for _ in range(5):
        still.observe(
            data,
            {"t": TeacherScores("v", blind.rows, blind.logits, nothing, nothing, blind.target_ranks, 1.0, dict.fromkeys(PROBE_FACTORS, 0.0))},
            None,
            NUM_ITEMS,
        )
    assert still.temperatures(["t"])["t"] == 1.0


def test_a_mix_sums_to_the_probability_of_what_is_kept_and_adds_what_teachers_agree_on() -> None:
    data = some_examples(30)
    labels = mix(Ensemble().weigh(data, answers_of({"a": planted(data, 3.0), "b": planted(data, 3.0, version="v2")})), len(data), 4, 1.0)
    likely = np.exp(3.0) / (np.exp(3.0) + NUM_ITEMS - 1)
    np.testing.assert_allclose(labels.probs[:, 0], likely, rtol=1e-5)
    np.testing.assert_allclose(labels.probs.sum(1), likely + 3 * (1 - likely) / (NUM_ITEMS - 1), rtol=1e-5)
    assert (labels.rows[:, 0] == data.target_rows).all()
    assert all(len(set(row)) == 4 for row in labels.rows.tolist())
    assert labels.versions == {"a": "v1", "b": "v2"}
    assert (np.diff(labels.probs, axis=1) <= 0).all()


def test_a_mix_is_the_weighted_sum_of_the_teachers_probabilities() -> None:
    data = some_examples(1)
    zero = np.zeros(1, np.float32)

    def answer(rows: list[int], probs: list[float]) -> TeacherScores:
        logits = np.asarray([[*np.log(probs), -np.inf]], np.float32)
        return TeacherScores("1", np.asarray([[*rows, -1]], np.int32), logits, zero, zero, zero.astype(np.int32), 1.0, {1.0: 0.0})

    one, two = answer([3, 5], [0.6, 0.4]), answer([5, 7], [0.8, 0.2])
    labels = mix(Ensemble().weigh(data, answers_of({"one": one, "two": two})), len(data), 6, 1.0)
    assert labels.rows.tolist() == [[5, 3, 7, -1, -1, -1]]
    np.testing.assert_allclose(labels.probs, [[0.6, 0.3, 0.1, 0, 0, 0]], rtol=1e-5)
    flat = mix(Ensemble().weigh(data, answers_of({"one": one, "two": two})), len(data), 6, 2.0)
    root = np.sqrt([0.6, 0.3, 0.1])
    np.testing.assert_allclose(flat.probs[0, :3], root / root.sum(), rtol=1e-5)


def test_labels_count_for_little_once_the_student_explains_more_than_the_teachers() -> None:
    useless, useful = Ensemble(), Ensemble()
    for seed in range(40):
        data = some_examples(200, seed)
        student = np.full(200, np.log(0.3), np.float32)
        useless.observe(data, {"t": planted(data, 4.0, seed)}, student, NUM_ITEMS)
        useful.observe(data, {"t": planted(data, 6.0)}, student, NUM_ITEMS)
    assert useless.share(["t"])[:3].max() < 0.5
    assert useful.share(["t"])[:3].tolist() == [1.0] * 3
    data = some_examples(20, 99)
    assert (
        mix(useless.weigh(data, answers_of({"t": planted(data, 4.0)})), len(data), 4, 1.0).probs.sum()
        < 0.4 * mix(useful.weigh(data, answers_of({"t": planted(data, 4.0)})), len(data), 4, 1.0).probs.sum()
    )


@pytest.mark.parametrize(("mixture", "expected"), [(0.6, 1.0), (0.55, 1.0), (0.5375, 0.7), (0.525, 0.4), (0.3, 0.4)])
def test_labels_count_by_how_much_better_the_mixture_ranks_than_the_student_on_events_alone(mixture: float, expected: float) -> None:
    made = Ensemble()
    assert made.standing() == 1.0
    made.compare(1000, mixture, 0.5)
    assert made.standing() == 1.0, "so few say nothing"
    made.compare(3000, mixture, 0.5)
    assert made.standing() == pytest.approx(expected)
    restored = Ensemble()
    restored.restore(made.snapshot())
    assert restored.standing() == made.standing()
    for _ in range(10):
        made.compare(8192, 0.6, 0.5)
    assert made.standing() == pytest.approx(1.0), "what was long ago does not count"


def test_a_student_that_finds_nothing_yet_is_taught_in_full() -> None:
    made = Ensemble()
    made.compare(5000, 0.0, 0.0)
    assert made.standing() == 1.0


def test_a_teacher_that_knows_nothing_of_a_query_leaves_it_unlabelled() -> None:
    data = some_examples(2)
    none = np.full((2, 3), -np.inf, np.float32)
    silent = TeacherScores("1", np.full((2, 3), -1, np.int32), none, none[:, 0], none[:, 0], np.zeros(2, np.int32), 1.0, {1.0: 0.0})
    labels = mix(Ensemble().weigh(data, answers_of({"silent": silent})), len(data), 4, 1.0)
    assert labels.probs.sum() == 0
    assert (labels.rows == -1).all()


def test_a_restored_ensemble_is_the_same_and_its_snapshot_stands_still() -> None:
    ensemble, again = Ensemble(), Ensemble()
    data = some_examples(50)
    ensemble.observe(data, {"good": planted(data, 3.0), "bad": planted(data, 3.0, 1)}, None, NUM_ITEMS)
    held = ensemble.snapshot()
    again.restore(held)
    assert again.digest() == ensemble.digest()
    ensemble.observe(data, {"new": planted(data, 3.0)}, None, NUM_ITEMS)
    assert set(held.meta["weights"]) == {"good", "bad", "chance"}
    assert again.digest() != ensemble.digest()


def linear(rows: list[int], weights: Any) -> ComponentState:
    return ComponentState(
        {"rows": np.asarray(rows, np.int32), "weights": np.asarray(weights, np.float32)}, {"kind": "linear", "decay": LinearConfig().history_decay}
    )


@pytest.fixture
def store(tmp_path: Any) -> TeacherStore:
    made = TeacherStore(LocalStorage(str(tmp_path)))
    rng = np.random.default_rng(0)
    for version in ("v1", "v2"):
        made.publish("linear", version, linear(list(range(10)), rng.standard_normal((10, 10))), {})
    return made


def first_items(num: int) -> RowFacts:
    """Rows of one namespace that all hold their first item."""
    return RowFacts(np.zeros(num, np.int32), np.zeros(num, np.int32))


def test_each_version_scores_with_its_own_weights_whoever_asks(store: TeacherStore, tmp_path: Any) -> None:
    data, names = some_examples(7), first_items(NUM_ITEMS)
    scorer = Scorer(str(tmp_path), 4)
    first = scorer.score(data, {"linear": "v1"}, {}, names)["linear"]
    second = scorer.score(data, {"linear": "v2"}, {}, names)["linear"]
    again = Scorer(str(tmp_path), 4).score(data, {"linear": "v1"}, {}, names)["linear"]
    assert (first.version, second.version) == ("v1", "v2")
    np.testing.assert_array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, second.logits)


def test_candidates_norms_and_ranks_agree_with_the_raw_logits(store: TeacherStore, tmp_path: Any) -> None:
    data, names = some_examples(9), first_items(NUM_ITEMS)
    scores = Scorer(str(tmp_path), 4).score(data, {"linear": "v1"}, {"linear": 0.5}, names)["linear"]
    raw = torch.from_numpy(load_teacher(store.load("linear", "v1")).score(data.history, np.arange(NUM_ITEMS, dtype=np.int32)))
    np.testing.assert_allclose(scores.log_norm, torch.logsumexp(raw.topk(8, 1).values / 0.5, 1), rtol=1e-5)
    for query in range(9):
        row = int(data.target_rows[query])
        order = torch.argsort(-raw[query], stable=True).tolist()
        known = bool(torch.isfinite(raw[query]).any())
        assert scores.rows[query].tolist() == (order[:8] if known else [-1] * 8)
        assert scores.target_ranks[query] == (order.index(row) if bool(torch.isfinite(raw[query, row])) else UNRANKED)
        assert scores.target_logits[query] == (raw[query, row] if row in order[:8] else -np.inf)
    assert scores.probe.keys() == set(PROBE_FACTORS)


def test_candidates_are_the_querys_namespace_and_seen_rows_count_only_for_ranks(store: TeacherStore, tmp_path: Any) -> None:
    data = some_examples(10, namespaces=2)
    names = RowFacts((np.arange(NUM_ITEMS) % 2).astype(np.int32), np.zeros(NUM_ITEMS, np.int32))
    scorer = Scorer(str(tmp_path), 4)
    scores = scorer.score(data, {"linear": "v1"}, {}, names)["linear"]
    for query in range(10):
        rows = scores.rows[query][scores.rows[query] >= 0]
        assert (rows % 2 == data.namespace[query]).all()
    seen = [np.asarray([row], np.int32) for row in data.target_rows]
    masked = scorer.score(data, {"linear": "v1"}, {}, names, seen)["linear"]
    assert (masked.target_ranks == UNRANKED).all()
    np.testing.assert_array_equal(masked.rows, scores.rows)


def test_a_history_of_unknown_items_gets_no_answer(store: TeacherStore, tmp_path: Any) -> None:
    data = some_examples(2)
    unknown = Examples(np.full((2, 4), 11, np.int32), data.indptr, data.target_rows, data.weight, data.user, data.namespace)
    scores = Scorer(str(tmp_path), 4).score(unknown, {"linear": "v1"}, {}, first_items(NUM_ITEMS))["linear"]
    assert (scores.rows == -1).all()
    assert (scores.target_ranks == UNRANKED).all()
    assert np.isneginf(scores.log_norm).all()


def test_a_teacher_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RegistryError, match="unknown kind"):
        load_teacher(ComponentState({}, {"kind": "oracle"}))
