from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamrec.config import FeaturesConfig, LossesConfig, StudentConfig
from streamrec.evaluation.ranking import UNRANKED
from streamrec.features.examples import Examples
from streamrec.models.student import StudentModel
from streamrec.serving.recommender import Recommender
from streamrec.soft_labels.schema import SoftLabels
from streamrec.state import pack_strings
from streamrec.student.learner import ANNEALED, CURRENT, Learner
from streamrec.student.losses import (
    Batch,
    Products,
    Weights,
    element_dropout_at,
    full_softmax_loss,
    localise,
    sampled_softmax_loss,
    temperature_by_certainty,
    tempered,
)
from streamrec.testing.classroom import teach

LENGTH, WORDS, TOP = 6, 3, 5
FEATURES = FeaturesConfig(history_length=LENGTH, words_per_item=WORDS, word_buckets=16)


def learner(num_items: int = 30, *, namespaces: int = 1, words_per_item: int = WORDS, **student: Any) -> Learner:
    config = StudentConfig(**{"dim": 8, "batch_size": 16, **student})
    made = Learner(config, FEATURES.model_copy(update={"words_per_item": words_per_item}), TOP, seed=3)
    rows = np.arange(num_items, dtype=np.int32)
    words = np.random.default_rng(0).integers(-1, 16, (num_items, words_per_item)).astype(np.int32)
    made.put_items(rows, words, rows % namespaces)
    return made


def some_examples(num: int, num_items: int = 30, *, namespaces: int = 1, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    namespace = rng.integers(0, namespaces, num)
    history = rng.integers(0, num_items // namespaces, (num, LENGTH)) * namespaces + namespace[:, None]
    history = np.where(np.arange(LENGTH)[None, :] < rng.integers(1, LENGTH + 1, num)[:, None], history, -1)
    baskets = [rng.choice(num_items // namespaces, rng.integers(1, 4), replace=False) * namespaces + name for name in namespace]
    indptr = np.concatenate([[0], np.cumsum([len(basket) for basket in baskets])]).astype(np.int64)
    return Examples(
        history.astype(np.int32), indptr, np.concatenate(baskets).astype(np.int32), rng.uniform(0.5, 1, num).astype(np.float32),
        rng.integers(0, 9, num), namespace.astype(np.int32),
    )  # fmt: skip


def some_labels(examples: Examples, num_items: int = 30, *, namespaces: int = 1, seed: int = 0) -> SoftLabels:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice(num_items // namespaces, TOP, replace=False) * namespaces + name for name in examples.namespace.tolist()])
    probs = rng.dirichlet(np.ones(TOP), len(examples)).astype(np.float32)
    rows[::3, -2:], probs[::3, -2:] = -1, 0
    return SoftLabels(rows.astype(np.int32), probs / probs.sum(1, keepdims=True), {})


def shaken(made: Learner) -> Learner:
    """The learner after some steps, with every parameter away from where it started."""
    data = some_examples(40, made.tables.num_rows)
    teach(made, data, some_labels(data, made.tables.num_rows), 1, 2)
    with torch.no_grad():
        for number, parameter in enumerate(made._dense.values()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    made._held.clear()
    return made


def naive_scores(arrays: Any, meta: Any, history: list[int]) -> np.ndarray[Any, Any]:
    """The formula of the design, one number at a time."""
    history = [row for row in history if row >= 0][: meta["history_length"]]
    weights = np.exp(arrays["position_logits"][: len(history)].astype(float))
    weights /= weights.sum()
    pooled = sum(weight * arrays["item_vectors"][row].astype(float) for weight, row in zip(weights, history, strict=True))
    query = pooled @ arrays["pool_projection"]
    for row, projection in zip(history, np.split(arrays["last_projection"], len(arrays["last_projection"]) // meta["dim"]), strict=False):
        query = query + arrays["item_vectors"][row].astype(float) @ projection
    query = query / max(float(np.linalg.norm(query)), 1e-6)
    scores = np.array(
        [meta["scale"] * float(vector @ query) + bias for vector, bias in zip(arrays["item_vectors"], arrays["item_bias"], strict=True)]
    )
    for place, row in enumerate(history):
        scores[row] += arrays["own_bias"][place]
    return scores


def test_scores_follow_the_formula_and_serving_answers_the_same() -> None:
    made = shaken(learner())
    arrays, meta = made.export()
    ids, offsets = pack_strings([f"i{row}" for row in range(30)])
    names, name_offsets = pack_strings(["default"])
    everything = {
        **arrays, "item_id_bytes": ids, "item_id_offsets": offsets, "namespace_bytes": names, "namespace_offsets": name_offsets,
        "popularity": np.zeros(30, np.float32),
    }  # fmt: skip
    served = Recommender(everything, meta)
    data = some_examples(12, seed=5)
    batched = made._frozen(CURRENT).scores(data.history).numpy()
    for number, history in enumerate(data.history):
        expected = naive_scores(arrays, meta, history.tolist())
        np.testing.assert_allclose(batched[number], expected, atol=1e-4)
        rows, scores = served.rank(history[history >= 0], 30)
        np.testing.assert_allclose(scores, expected[rows], atol=1e-4)
        assert (np.diff(expected[rows]) <= 1e-4).all()


def test_the_model_that_learns_scores_as_the_frozen_one() -> None:
    made = shaken(learner())
    data = some_examples(9, seed=6)
    history = torch.from_numpy(data.history.astype(np.int64))
    vectors = made.tables.rows("vectors") + made.model.content(made.tables.rows("words"))
    with torch.no_grad():
        scores = made.model.add_own(made.model.score(made.model.encode(vectors, history), vectors, made.tables.rows("bias")), history)
    np.testing.assert_allclose(scores.numpy(), made._frozen(CURRENT).scores(data.history).numpy(), atol=1e-4)


def test_items_that_a_version_lacks_are_skipped_in_a_history_and_unranked_as_targets() -> None:
    made = shaken(learner())
    frozen = made._frozen(CURRENT)
    with_new = np.asarray([[99, 4, 77, 7, -1, -1]], np.int32)
    without = np.asarray([[4, 7, -1, -1, -1, -1]], np.int32)
    np.testing.assert_array_equal(frozen.scores(with_new).numpy(), frozen.scores(without).numpy())
    assert torch.isneginf(frozen.scores(np.asarray([[99, 98, -1, -1, -1, -1]], np.int32))).all()
    one = Examples(with_new, np.asarray([0, 2]), np.asarray([99, 4], np.int32), np.ones(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.int32))
    ranks = made.ranks(one, [CURRENT])[CURRENT]
    assert ranks[0] == UNRANKED
    assert ranks[1] < 30


def test_a_student_without_items_ranks_nothing_and_says_so() -> None:
    made = Learner(StudentConfig(dim=4), FEATURES, TOP, 0)
    data = some_examples(3)
    assert (made.ranks(data, [CURRENT])[CURRENT] == UNRANKED).all()
    assert made.probes(data) == {"history": [], "top": [], "score": []}


def test_an_item_with_nothing_but_a_title_has_the_mean_of_its_words_as_content() -> None:
    model = StudentModel(4, LENGTH, 16, 9.0)
    with torch.no_grad():
        model.words.copy_(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    words = torch.tensor([[3, 5, -1], [-1, -1, -1], [2, 2, 2]])
    content = model.content(words).detach()
    np.testing.assert_allclose(content[0], ((model.words[3] + model.words[5]) / 2).detach(), rtol=1e-6)
    assert content[1].tolist() == [0.0] * 4
    np.testing.assert_allclose(content[2], model.words[2].detach(), rtol=1e-6)
    assert model.content(torch.zeros(5, 0, dtype=torch.int64)).tolist() == [[0.0] * 4] * 5


def test_a_new_items_row_depends_on_its_number_alone() -> None:
    one, other = learner(30), learner(10)
    more = np.arange(10, 30, dtype=np.int32)
    other.put_items(more, np.full((20, WORDS), -1, np.int32), np.zeros(20, np.int32))
    np.testing.assert_array_equal(one.tables.rows("vectors"), other.tables.rows("vectors"))


def test_labels_that_are_sure_are_flattened_and_even_ones_stay_even() -> None:
    probs = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2], [0.6, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    temperatures = temperature_by_certainty(probs)
    np.testing.assert_allclose(temperatures[:2, 0], [2.0, 0.5], rtol=1e-5)
    doubt = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(4)
    assert float(temperatures[2]) == pytest.approx(2 ** (1 - 2 * doubt), rel=1e-5)
    found = tempered(probs, temperatures)
    np.testing.assert_allclose(found.sum(1), probs.sum(1), rtol=1e-5)
    np.testing.assert_allclose(found[[0, 1, 3]], probs[[0, 1, 3]], rtol=1e-5)
    assert 0.4 < float(found[2, 0]) < 0.6


FURTHER = [
    LossesConfig(),
    LossesConfig(kl=0.7, kl_temperature=1.0),
    LossesConfig(kl=0.7, kl_temperature=3.0),
    LossesConfig(listwise=0.7, dynamic_temperature=True),
]


@pytest.mark.parametrize("further", FURTHER)
@pytest.mark.parametrize("namespaces", [1, 2])
def test_the_sampled_loss_is_the_full_one_when_the_negatives_are_all_rows_once(
    monkeypatch: pytest.MonkeyPatch, namespaces: int, further: LossesConfig
) -> None:
    made = shaken(learner(namespaces=namespaces))
    data = some_examples(20, namespaces=namespaces, seed=8)
    batch = Batch.of(data, some_labels(data, namespaces=namespaces), 0.0, 0.0)
    names, vectors, bias = made.tables.rows("namespace"), made.tables.rows("vectors"), made.tables.rows("bias")
    full = full_softmax_loss(made.model, vectors, bias, batch, names, Weights(0.5, further))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape: torch.arange(low, high))
    rows, local, sampled = localise(batch, 30, 30, names)
    found = sampled_softmax_loss(made.model, vectors[rows], bias[rows], local, sampled, Weights(0.5, further))
    assert float(found.total.detach()) == pytest.approx(float(full.total.detach()), abs=1e-4)
    assert found.hard == pytest.approx(full.hard, abs=1e-4)
    assert found.soft == pytest.approx(full.soft, abs=1e-4)


def test_products_with_own_rows_have_the_gradients_of_the_plain_formula_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    query, vectors = (torch.randn(num, 8, generator=generator, requires_grad=True) for num in (6, 40))
    index, weights = torch.randint(0, 40, (6, 30), generator=generator), torch.randn(6, 30, generator=generator)
    plain, fast = torch.einsum("bd,bcd->bc", query, vectors[index]), Products.apply(query, vectors, index)
    assert torch.equal(plain, fast)
    for one, other in zip(*(torch.autograd.grad((found * weights).sum(), (query, vectors)) for found in (plain, fast)), strict=True):
        assert torch.equal(one, other)


def test_the_sampled_partition_sum_is_right_in_expectation() -> None:
    made = shaken(learner())
    data = some_examples(4, seed=9)
    batch = Batch.of(data, some_labels(data), 0.0, 0.0)
    names, vectors, bias = made.tables.rows("namespace"), made.tables.rows("vectors"), made.tables.rows("bias")
    torch.manual_seed(0)
    hard = []
    for _ in range(60):
        rows, local, sampled = localise(batch, 30, 400, names)
        hard.append(sampled_softmax_loss(made.model, vectors[rows], bias[rows], local, sampled, Weights(0.5)).hard)
    full = full_softmax_loss(made.model, vectors, bias, batch, names, Weights(0.5))
    assert np.mean(hard) == pytest.approx(full.hard, abs=0.02)


def test_labels_weigh_as_the_share_says_and_unlabelled_queries_learn_from_events_alone() -> None:
    made = shaken(learner())
    data = some_examples(2, seed=10)
    labels = SoftLabels(np.full((2, TOP), -1, np.int32), np.zeros((2, TOP), np.float32), {})
    args = (made.tables.rows("vectors"), made.tables.rows("bias"))
    unlabelled = full_softmax_loss(made.model, *args, Batch.of(data, labels, 0.0, 0.0), made.tables.rows("namespace"), Weights(0.7))
    plain = full_softmax_loss(made.model, *args, Batch.of(data, labels, 0.0, 0.0), made.tables.rows("namespace"), Weights(0.0))
    assert float(unlabelled.total.detach()) == pytest.approx(float(plain.total.detach()), rel=1e-6)
    labelled = some_labels(data)
    mixed = full_softmax_loss(made.model, *args, Batch.of(data, labelled, 0.0, 0.0), made.tables.rows("namespace"), Weights(1.0))
    np.testing.assert_allclose(mixed.soft, float(mixed.total.detach()) / 1.0, rtol=0.6)  # weights lie in 0.5 … 1


@pytest.mark.parametrize("settings", [{}, {"full_softmax_items": 5, "num_negatives": 6}])
def test_a_student_that_gets_no_labels_learns_bit_for_bit_what_one_does_that_gives_them_no_share(settings: dict[str, Any]) -> None:
    without, shareless = learner(**settings), learner(distill_weight=0.0, **settings)
    for seed in range(3):
        data = some_examples(24, seed=seed)
        teach(without, data, None, seed, 2)
        teach(shareless, data, None, seed, 2)
    assert without.digest() == shareless.digest()


@pytest.mark.parametrize("further", FURTHER[1:])
def test_each_further_loss_adds_its_weight_to_labelled_queries_alone(further: LossesConfig) -> None:
    made = shaken(learner())
    data = some_examples(6, seed=10)
    labels = some_labels(data)
    labels.rows[:2], labels.probs[:2] = -1, 0
    args = (made.tables.rows("vectors"), made.tables.rows("bias"))

    def total(further: LossesConfig, part: list[int]) -> float:
        index = np.asarray(part)
        batch = Batch.of(data.take(index), labels.take(index), 0.0, 0.0)
        return float(full_softmax_loss(made.model, *args, batch, made.tables.rows("namespace"), Weights(0.5, further)).total.detach())

    weighed = [further.model_copy(update={"kl": times * further.kl, "listwise": times * further.listwise}) for times in range(3)]
    without, once, twice = (total(which, [2, 3, 4, 5]) for which in weighed)
    assert once > without
    assert twice - once == pytest.approx(once - without, rel=1e-3)
    assert total(further, [0, 1]) == total(LossesConfig(), [0, 1])


def test_a_step_against_the_gradient_lowers_the_loss() -> None:
    made = learner(history_dropout=0.0, element_dropout=0.0, learning_rate=1e-3)
    data = some_examples(16)
    losses = [teach(made, data, None, seed, 1).hard_loss for seed in range(12)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("settings", [{}, {"full_softmax_items": 5, "num_negatives": 6}])
def test_vectors_stay_on_the_unit_sphere(settings: dict[str, Any]) -> None:
    made = learner(**settings)
    data = some_examples(50)
    teach(made, data, some_labels(data), 1, 3)
    np.testing.assert_allclose(made.tables.rows("vectors").norm(dim=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"full_softmax_items": 5, "num_negatives": 6}])
def test_a_restored_learner_takes_the_same_steps_bit_for_bit(settings: dict[str, Any]) -> None:
    one, other = learner(**settings), learner(**settings)
    for seed in range(4):
        data = some_examples(24, seed=seed)
        teach(one, data, some_labels(data, seed=seed), seed, 1)
    base = one.snapshot()
    teach(other, some_examples(9), None, 99, 1)  # It had another past.
    other.restore(base)
    assert other.digest() == one.digest()
    for made in (one, other):
        rows = np.arange(25, 35, dtype=np.int32)
        made.put_items(rows, np.ones((10, WORDS), np.int32), np.zeros(10, np.int32))
    data = some_examples(24, seed=50)
    metrics = [teach(made, data, some_labels(data, seed=50), 7, 2) for made in (one, other)]
    assert metrics[0] == metrics[1]
    assert other.digest() == one.digest()
    np.testing.assert_array_equal(one.ranks(data, [CURRENT])[CURRENT], other.ranks(data, [CURRENT])[CURRENT])


def test_what_a_step_draws_depends_on_its_seed_alone_and_leaves_torchs_generator_as_it_was() -> None:
    digests, left = [], []
    for before in (1, 2):
        torch.default_generator.manual_seed(before)
        made = learner(history_dropout=0.5, element_dropout=0.5)
        teach(made, some_examples(40), None, 5)
        digests.append(made.digest())
        left.append(torch.default_generator.initial_seed())
    assert digests[0] == digests[1]
    assert left == [1, 2]


def test_rows_that_a_sampled_step_does_not_touch_keep_their_bits() -> None:
    made = learner(400, full_softmax_items=10, num_negatives=5, batch_size=4)
    before = made.snapshot().arrays
    teach(made, some_examples(4, 400), None, 1, 1)
    after = made.snapshot().arrays
    changed = (before["table/vectors"] != after["table/vectors"]).any(1)
    assert 0 < changed.sum() <= 4 * LENGTH + 12 + 5
    for name in ("vectors_m", "vectors_v", "bias", "bias_m", "bias_v"):
        np.testing.assert_array_equal(before[f"table/{name}"][~changed], after[f"table/{name}"][~changed])


def test_deltas_hold_the_rows_that_steps_and_new_items_touched_and_restore_to_the_same_bits() -> None:
    settings: dict[str, Any] = {"full_softmax_items": 10, "num_negatives": 5, "batch_size": 4}
    one, other = learner(400, **settings), learner(1, **settings)
    base, deltas = one.snapshot(), []
    for seed in (1, 2):
        teach(one, some_examples(4, 400, seed=seed), None, seed, 1)
        one.put_items(np.asarray([7, 399 + seed], np.int32), np.ones((2, WORDS), np.int32), np.zeros(2, np.int32))
        delta = one.delta()
        assert delta is not None
        assert {7, 399 + seed} <= set(delta.arrays["@rows"].tolist())
        assert len(delta.arrays["@rows"]) <= 4 * LENGTH + 12 + 5 + 2
        deltas.append(delta)
    other.restore(base, deltas)
    assert other.digest() == one.digest()
    teach(one, some_examples(200, 400), None, 3, 1)
    assert one.delta() is None, "most rows changed"


def test_ranking_changes_nothing_and_versions_that_are_held_stay_as_they_were() -> None:
    made = learner()
    data = some_examples(20)
    teach(made, data, None, 1, 1)
    made.hold_current("v1")
    digest, ranks = made.digest(), made.ranks(data, ["v1"])["v1"]
    teach(made, data, None, 2, 5)
    assert made.digest() != digest
    np.testing.assert_array_equal(made.ranks(data, ["v1"])["v1"], ranks)
    made.hold_current("v2", ["v1"])
    made.hold_current("v3", ["v2"])
    assert made.ranks(data, ["v2", "v3"]).keys() == {"v2", "v3"}
    with pytest.raises(KeyError):
        made.ranks(data, ["v1"])
    digest = made.digest()
    made.ranks(data, [CURRENT])
    made.probes(data)
    made.export()
    assert made.digest() == digest


def test_current_ranks_do_not_depend_on_when_they_were_last_asked_for() -> None:
    one, other = learner(), learner()
    data = some_examples(10, 33)
    one.ranks(data, [CURRENT])
    for made in (one, other):
        made.put_items(np.arange(30, 33, dtype=np.int32), np.ones((3, WORDS), np.int32), np.zeros(3, np.int32))
    np.testing.assert_array_equal(one.ranks(data, [CURRENT])[CURRENT], other.ranks(data, [CURRENT])[CURRENT])


def test_candidates_come_from_the_querys_namespace() -> None:
    made = shaken(learner(namespaces=2))
    data = some_examples(10, namespaces=2, seed=4)
    assert made.ranks(data, [CURRENT])[CURRENT].max() < 15
    probes = made.probes(data)
    for history, top in zip(probes["history"], probes["top"], strict=True):
        assert {int(row) % 2 for row in top} == {int(history[0]) % 2}


def test_seen_rows_are_no_candidates() -> None:
    made = shaken(learner())
    data = some_examples(6, seed=4)
    seen = [np.unique(history[history >= 0]) for history in data.history]
    ranks, free = made.ranks(data, [CURRENT], seen)[CURRENT], made.ranks(data, [CURRENT])[CURRENT]
    for target, query, rank, before in zip(data.target_rows, data.query_of_target, ranks, free, strict=True):
        assert rank == UNRANKED if target in seen[query] else rank <= before


def test_a_student_without_words_learns() -> None:
    made = learner(words_per_item=0)
    assert teach(made, some_examples(20), None, 1, 2).num_trained == 40


def test_an_empty_batch_changes_nothing() -> None:
    made = learner()
    digest = made.digest()
    assert teach(made, Examples.empty(LENGTH), None, 1, 1).num_trained == 0
    assert made.digest() == digest


@pytest.mark.parametrize(("passes", "ends_at"), [(1, 1.0), (4, 1.0 - ANNEALED)])
def test_a_step_of_several_passes_anneals_its_rate_and_one_pass_does_not(passes: int, ends_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rates = learner(), []
    descend = made.tables.step

    def step(rows: Any, vectors_grad: Any, bias_grad: Any, learning_rate: float, number: int) -> None:
        rates.append(learning_rate / made.config.learning_rate)
        descend(rows, vectors_grad, bias_grad, learning_rate, number)

    monkeypatch.setattr(made.tables, "step", step)
    teach(made, some_examples(160), None, 1, passes)
    assert len(rates) == passes * 10
    begins_at = 1.0 if passes == 1 else made.config.bootstrap_rate
    assert rates[0] == begins_at < (1.0 if passes > 1 else 1.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(begins_at * ends_at, abs=1 / len(rates))


def test_few_dimensions_get_as_much_noise_in_a_score_from_dropout_as_64_do() -> None:
    rng = torch.Generator().manual_seed(0)

    def noise(dim: int, rate: float) -> float:
        one, other = (torch.nn.functional.normalize(torch.randn(4000, dim, generator=rng), dim=1) for _ in range(2))
        kept = torch.rand(4000, dim, generator=rng) >= rate
        return float(((one * kept / (1 - rate) - one) * other).sum(1).var())

    usual = noise(64, 0.3)
    for dim in (10, 20, 32):
        assert noise(dim, element_dropout_at(0.3, dim)) == pytest.approx(usual, rel=0.1)
        assert noise(dim, 0.3) > 1.5 * usual
    assert [element_dropout_at(0.3, dim) for dim in (64, 128)] == [pytest.approx(0.3)] * 2
    assert element_dropout_at(0.0, 16) == 0.0


def test_a_student_of_few_dimensions_learns_with_less_dropout_and_one_of_64_with_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(dim: int) -> str:
        made, data = learner(dim=dim, element_dropout=0.3), some_examples(24)
        teach(made, data, None, 0)
        return made.digest()

    usual = {dim: learned(dim) for dim in (16, 64)}
    monkeypatch.setattr("streamrec.student.losses.FULL_DIM", 16)  # So that 16 dimensions get the whole rate, too.
    assert learned(16) != usual[16]
    assert learned(64) == usual[64]
