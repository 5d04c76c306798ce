"""A softmax over some items that stands for the one over all."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from streamrec.models.candidates import Own, candidate_cross_entropy, log_inclusion

NUM_ITEMS, DIM = 30, 4


def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((3, DIM), (NUM_ITEMS, DIM), (NUM_ITEMS,)))


def test_with_all_items_it_is_the_full_softmax_and_states_may_have_several_targets_or_none() -> None:
    states, vectors, bias = world()
    state_of, targets = torch.tensor([2, 0, 2]), torch.tensor([5, 7, 11])
    found = candidate_cross_entropy(states, vectors, bias, torch.zeros(NUM_ITEMS), state_of, targets)
    torch.testing.assert_close(found, cross_entropy((states @ vectors.T + bias)[state_of], targets, reduction="none"))


def test_the_partition_sum_is_right_on_average_where_a_state_brings_items_with_it() -> None:
    states, vectors, bias = (part / 2 for part in world())
    own = [3, 6, 6, 9]
    more = torch.tensor([[0.5, 0.0, 1.0, 0.0]])
    logits = (states[:1] @ vectors.T + bias).index_add(1, torch.tensor(own), more)
    truth = float(torch.logsumexp(logits, 1))
    rng = np.random.default_rng(0)
    share = np.zeros(NUM_ITEMS)
    share[[3, 4, 5]] = 0.5, 0.3, 0.2
    found = []
    for _ in range(4000):
        rows = np.unique(np.concatenate([own, rng.choice(NUM_ITEMS, 3, p=share), rng.integers(0, NUM_ITEMS, 8)]))
        chance = torch.from_numpy(log_inclusion(share[rows], 3, 8, NUM_ITEMS))
        places = torch.from_numpy(np.searchsorted(rows, own))[None]
        at = torch.tensor([int(np.searchsorted(rows, 9))])
        loss = candidate_cross_entropy(
            states[:1], vectors[rows], bias[rows], chance, torch.tensor([0]), at, Own.of(places, torch.arange(len(places)), more)
        )
        found.append(float(torch.exp(loss + logits[0, 9])))
    assert abs(np.mean(found) / np.exp(truth) - 1) < 0.02


def test_what_a_state_favours_by_itself_is_added_as_often_as_it_is_named() -> None:
    states, vectors, bias = world()
    state_of, targets = torch.tensor([0, 1, 1]), torch.tensor([5, 7, 11])
    places, more = torch.tensor([[5, 5, -1], [7, 0, 1], [3, 3, 3]]), torch.tensor([[1.0, 0.5, 0.0], [3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = candidate_cross_entropy(states, vectors, bias, torch.zeros(NUM_ITEMS), state_of, targets, Own.of(places, torch.arange(len(places)), more))
    logits = states @ vectors.T + bias
    for state, place, amount in zip(range(3), places.tolist(), more.tolist(), strict=True):
        for row, value in zip(place, amount, strict=True):
            logits[state, row] += value
    torch.testing.assert_close(found, cross_entropy(logits[state_of], targets, reduction="none"))


def test_the_partition_sum_is_right_on_average_and_the_target_counts_once() -> None:
    states, vectors, bias = (part / 2 for part in world())
    target = 3
    logits = states[:1] @ vectors.T + bias
    truth = float(torch.logsumexp(logits, 1))
    rng = np.random.default_rng(0)
    share = np.zeros(NUM_ITEMS)
    share[[3, 4, 5]] = 0.5, 0.3, 0.2
    found = []
    for _ in range(4000):
        events = rng.choice(NUM_ITEMS, 4, p=share)
        rows = np.unique(np.concatenate([[target], events[1:], rng.integers(0, NUM_ITEMS, 8)]))
        # The target is there in any case: what is left to chance are the other events.
        chance = torch.from_numpy(log_inclusion(share[rows], 3, 8, NUM_ITEMS))
        loss = candidate_cross_entropy(
            states[:1], vectors[rows], bias[rows], chance, torch.tensor([0]), torch.tensor([int(np.searchsorted(rows, target))])
        )
        found.append(float(torch.exp(loss + logits[0, target])))
    assert abs(np.mean(found) / np.exp(truth) - 1) < 0.02


def test_an_item_is_a_candidate_as_often_as_is_said() -> None:
    rng = np.random.default_rng(1)
    share = np.asarray([0.6, 0.4, 0.0])
    rounds = [np.concatenate([rng.choice(3, 2, p=share), rng.integers(0, 3, 1)]) for _ in range(20_000)]
    counted = [np.mean([row in drawn for drawn in rounds]) for row in range(3)]
    np.testing.assert_allclose(np.exp(log_inclusion(share, 2, 1, 3)), counted, atol=0.012)
