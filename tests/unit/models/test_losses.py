"""Each loss against values and gradients worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from streamrec.models.losses import (
    Hint,
    feature_hints,
    info_nce,
    kl_with_tail,
    listwise_ranking,
    multi_target_cross_entropy,
    relational_angles,
    relational_distances,
    soft_label_cross_entropy,
)

QUARTERS = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
COLUMNS = torch.tensor([[2, 0]])


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], scores: torch.Tensor) -> torch.Tensor:
    """Of the loss of one example by the scores behind its log-probabilities."""
    scores = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(torch.log_softmax(scores, 1)).sum(), scores)
    return found[0]


def test_hard_targets_are_averaged_over_a_basket() -> None:
    loss = multi_target_cross_entropy(QUARTERS.repeat(2, 1), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), 2)
    np.testing.assert_allclose(loss, [math.log(2), (math.log(4) + math.log(8)) / 2], rtol=1e-6)


def test_kl_counts_what_lies_outside_of_the_list() -> None:
    labels = torch.tensor([[0.5, 0.3]])
    by_hand = 0.5 * math.log(0.5 / 0.125) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.375)
    assert float(kl_with_tail(QUARTERS, COLUMNS, labels)) == pytest.approx(by_hand, rel=1e-5)
    assert float(kl_with_tail(QUARTERS, COLUMNS, labels, 3.0)) == pytest.approx(9 * by_hand, rel=1e-5)


def test_kl_is_nothing_where_both_agree_and_where_nobody_has_labels() -> None:
    agreed = torch.tensor([[0.125, 0.5]])
    assert float(kl_with_tail(QUARTERS, COLUMNS, agreed)) == pytest.approx(0.0, abs=1e-6)
    assert float(kl_with_tail(QUARTERS, torch.tensor([[0, 0]]), torch.zeros(1, 2))) == 0.0


def test_kl_without_a_tail_descends_as_the_cross_entropy_does() -> None:
    labels, scores = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.3, -0.2, 0.9, 0.1]])
    found = gradient(lambda log_probs: kl_with_tail(log_probs, COLUMNS, labels), scores)
    np.testing.assert_allclose(found, gradient(lambda log_probs: soft_label_cross_entropy(log_probs, COLUMNS, labels), scores), atol=1e-5)


def test_the_gradient_of_kl_is_what_the_student_has_less_what_it_should_have() -> None:
    scores = QUARTERS.clone()
    found = gradient(lambda log_probs: kl_with_tail(log_probs, COLUMNS, torch.tensor([[0.5, 0.3]])), scores)
    # The tail's 0.2 is shared out to its two items as the student shares its own 0.375.
    wanted = torch.tensor([0.3, 0.2 * 0.25 / 0.375, 0.5, 0.2 * 0.125 / 0.375])
    np.testing.assert_allclose(found, QUARTERS.exp()[0] - wanted, atol=1e-6)


def test_a_ranking_is_as_likely_as_drawing_it_one_by_one() -> None:
    everything = torch.tensor([[True, True]])
    by_hand = -(math.log(0.125) + math.log(0.5 / 0.875)) / 2
    assert float(listwise_ranking(QUARTERS, COLUMNS, everything)) == pytest.approx(by_hand, rel=1e-5)
    alone = listwise_ranking(QUARTERS, COLUMNS, torch.tensor([[False, True]]))
    assert float(alone) == pytest.approx(math.log(2), rel=1e-5)
    assert float(listwise_ranking(QUARTERS, COLUMNS, torch.tensor([[False, False]]))) == 0.0


def test_the_gradient_of_a_ranking_raises_its_first_item_most_and_lowers_all_others() -> None:
    held = torch.tensor([[True, True]])
    found = gradient(lambda log_probs: listwise_ranking(log_probs, COLUMNS, held), QUARTERS)
    # Of the first draw p - onehot(2); of the second p over what is left, less onehot(0); halved.
    first = torch.tensor([0.5, 0.25, 0.125 - 1, 0.125])
    second = torch.tensor([0.5 / 0.875 - 1, 0.25 / 0.875, 0.0, 0.125 / 0.875])
    np.testing.assert_allclose(found, (first + second) / 2, atol=1e-6)


def test_a_ranking_that_takes_all_candidates_has_gradients_that_are_numbers() -> None:
    columns, held = torch.tensor([[0, 1, 2, 3]]), torch.ones(1, 4, dtype=torch.bool)
    sure = torch.tensor([[40.0, 0.0, -40.0, -80.0]])
    assert torch.isfinite(gradient(lambda log_probs: listwise_ranking(log_probs, columns, held), sure)).all()
    assert torch.isfinite(gradient(lambda log_probs: kl_with_tail(log_probs, columns, torch.full((1, 4), 0.25)), sure)).all()


def test_contrast_is_the_cross_entropy_of_finding_the_own_representation() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(2 * half)))
    second = -math.log(math.exp(2 * half) / (1 + math.exp(2 * half)))
    np.testing.assert_allclose(info_nce(student, teacher, 0.5), [first, second], rtol=1e-5)


def test_hints_of_several_teachers_are_averaged_over_those_that_know_the_history() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    hints = [
        Hint(torch.tensor([[5.0, 0.0], [5.0, 0.0]]), swapped, torch.tensor([True, True])),  # At right angles: 2.
        Hint(torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.eye(2, 3), torch.tensor([True, False])),  # Opposite: 4.
    ]
    np.testing.assert_allclose(feature_hints(student, hints), [3.0, 2.0])
    assert feature_hints(student, []).tolist() == [0.0, 0.0]


def test_distances_are_compared_in_units_of_their_mean() -> None:
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
    # Distances 1, 1, 2 over 4/3 and 1, 4, 5 over 10/3; Huber's loss of their differences.
    apart = {(0, 1): 0.75 - 0.3, (1, 2): 0.75 - 1.2, (0, 2): 1.5 - 1.5}
    halves = {pair: value**2 / 2 for pair, value in apart.items()}
    wanted = [halves[0, 1] + halves[0, 2], halves[0, 1] + halves[1, 2], halves[0, 2] + halves[1, 2]]
    np.testing.assert_allclose(relational_distances(student, teacher), np.asarray(wanted) / 2, rtol=1e-5)


def test_angles_are_compared_at_each_corner() -> None:
    student, teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    # At the first corner cos 90° against cos 0°, and at the others cos 45° against cos 180° and cos 0°; each pair twice, over 2².
    huber = [0.5, math.sqrt(0.5) + 1 - 0.5, (1 - math.sqrt(0.5)) ** 2 / 2]
    np.testing.assert_allclose(relational_angles(student, teacher), [2 * value / 4 for value in huber], rtol=1e-5)


def test_relations_do_not_change_when_the_space_is_turned_and_scaled() -> None:
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    for loss in (relational_distances, relational_angles):
        np.testing.assert_allclose(loss(2.5 * points @ turn, points), torch.zeros(6), atol=1e-6)
        assert float(loss(points.flip(0), points).sum()) > 0.1


@pytest.mark.parametrize(
    "loss",
    [
        lambda points: info_nce(points, TEACHER, 0.5),
        lambda points: feature_hints(points, [Hint(TEACHER, torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False, True]))]),
        lambda points: relational_distances(points, TEACHER),
        lambda points: relational_angles(points, TEACHER),
    ],
)
def test_gradients_agree_with_differences_and_the_teacher_gets_none(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    points = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (points,))
    assert TEACHER.grad is None


TEACHER = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()


def aligned(loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], steps: int = 150) -> tuple[float, float]:
    """Let free student points in 4 dimensions follow a planted teacher in 6, whose points are of three kinds.

    Returns:
        How much nearer the student's points are to those of their own kind than to others', before and after.
    """
    generator = torch.Generator().manual_seed(4)
    kind = torch.arange(24) % 3
    teacher = normalize(torch.eye(6)[kind] + 0.1 * torch.randn(24, 6, generator=generator), dim=1)
    points = torch.randn(24, 4, generator=generator).requires_grad_()
    projection = torch.randn(4, 6, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([points, projection], lr=0.05)

    def margin() -> float:
        cosines = normalize(points.detach(), dim=1) @ normalize(points.detach(), dim=1).T
        same = kind[:, None] == kind[None, :]
        return float(cosines[same].mean() - cosines[~same].mean())

    before = margin()
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(loss(points, projection, teacher).mean())
        optimiser.step()
    return before, margin()


@pytest.mark.parametrize(
    "loss",
    [
        lambda points, projection, teacher: info_nce(points @ projection, teacher),
        lambda points, projection, teacher: feature_hints(points, [Hint(teacher, projection, torch.ones(24, dtype=torch.bool))]),
        lambda points, _, teacher: relational_distances(points, teacher),
        lambda points, _, teacher: relational_angles(points, teacher),
    ],
)
def test_each_loss_on_representations_brings_together_what_a_planted_teacher_holds_together(loss: Callable[..., torch.Tensor]) -> None:
    before, after = aligned(loss)
    assert before < 0.3
    assert after > before + 0.3
