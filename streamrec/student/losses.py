"""Put a mini-batch's loss together: candidates, scores, hard and soft parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LossesConfig
from streamrec.features.examples import Examples
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
from streamrec.models.student import StudentModel
from streamrec.soft_labels.schema import SoftLabels

FULL_DIM = 64
"""So many dimensions bear the whole element dropout; with it a student of 20 learned to tell less apart than it could (docs/experiments.md)."""
LEAST_COMPARED = 4
"""Fewer histories that a teacher knows say nothing of who is near whom."""
MOST_IN_TRIANGLES = 64
"""Angles of all triangles take memory with the square of a mini-batch; its first examples are as good a sample as any."""


@dataclass(frozen=True)
class Batch:
    """Hold a mini-batch as tensors. Rows are item rows; -1 pads.

    Attributes:
        history: [B, N] int64, newest first.
        keep: False drops an item from the pool. [B, N] bool
        query: Query of each target, ascending. [T] int64
        targets: [T] int64
        weight: [B] float32
        label_rows: [B, K] int64
        label_probs: [B, K] float32
        namespace: [B] int32
        element_dropout: Rate for the encoder.
        representations: Teacher name to its vectors of the histories, zeros where it has none. [B, E] float32
    """

    history: torch.Tensor
    keep: torch.Tensor
    query: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    label_rows: torch.Tensor
    label_probs: torch.Tensor
    namespace: torch.Tensor
    element_dropout: float = 0.0
    representations: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def of(examples: Examples, labels: SoftLabels, history_dropout: float, element_dropout: float) -> Batch:
        """Convert examples and labels, and draw the history dropout from torch's generator."""
        history = torch.from_numpy(examples.history.astype(np.int64))
        return Batch(
            history,
            torch.rand(history.shape) >= history_dropout,
            torch.from_numpy(examples.query_of_target),
            torch.from_numpy(examples.target_rows.astype(np.int64)),
            torch.from_numpy(np.ascontiguousarray(examples.weight)),
            torch.from_numpy(labels.rows.astype(np.int64)),
            torch.from_numpy(np.ascontiguousarray(labels.probs)),
            torch.from_numpy(np.ascontiguousarray(examples.namespace)),
            element_dropout,
            {name: torch.from_numpy(vectors) for name, vectors in labels.representations.items()},
        )


class Weights(NamedTuple):
    """Say how losses are put together.

    Attributes:
        share: Weight of the cross-entropy to the labels, for labelled examples; the targets get the rest.
        further: Weights of the other losses, which come on top.
        projections: Teacher name to what the student's query is seen through beside its representation. [D, E]
    """

    share: float
    further: LossesConfig = LossesConfig()
    projections: Mapping[str, torch.Tensor] = {}


@dataclass(frozen=True)
class LossParts:
    """Hold the loss to descend and its parts, per mini-batch means."""

    total: torch.Tensor
    hard: float
    soft: float


def full_softmax_loss(
    model: StudentModel, vectors: torch.Tensor, bias: torch.Tensor, batch: Batch, namespaces: torch.Tensor, weights: Weights
) -> LossParts:
    """Score all V rows and combine hard and soft losses.

    Args:
        model: Shared parameters.
        vectors: u of all rows. [V, D]
        bias: [V]
        batch: The mini-batch.
        namespaces: Namespace of each row; rows of others are no candidates. [V] int32
        weights: Of the losses.
    """
    query = model.encode(vectors, batch.history, batch.keep, batch.element_dropout)
    scores = model.add_own(model.score(query, vectors, bias), batch.history)
    if bool((namespaces != namespaces[0]).any()):
        scores = scores.masked_fill(batch.namespace[:, None] != namespaces[None, :], float("-inf"))
    log_probs = torch.log_softmax(scores, 1)
    parts = _combine(log_probs, batch.targets, batch, batch.label_rows, weights, lambda temperature: torch.log_softmax(scores / temperature, 1))
    return _with_representations(parts, query, batch, weights)


def sampled_softmax_loss(
    model: StudentModel, vectors: torch.Tensor, bias: torch.Tensor, batch: Batch, local: SampledRows, weights: Weights
) -> LossParts:
    """Score each example's own rows exactly and shared uniform negatives for the rest.

    The partition sum is exact over targets, labels and history, plus V / M times the sum over M uniform negatives outside them.

    Args:
        model: Shared parameters.
        vectors: u of the local rows. [R, D]
        bias: [R]
        batch: The mini-batch with rows already local.
        local: Own candidates and negatives, as local columns.
        weights: Of the losses.

    References: Jean et al., "On Using Very Large Target Vocabulary for NMT", ACL 2015, arXiv:1412.2007.
    """
    query = model.encode(vectors, batch.history, batch.keep, batch.element_dropout)  # [B, D]
    index = local.own.clamp(min=0)
    products: torch.Tensor = Products.apply(query, vectors, index)
    own = model.scale * products + bias.index_select(0, index.flatten()).view(index.shape)  # [B, C]
    match = torch.where(local.own < 0, -2, local.own)[:, :, None] == batch.history[:, None, :]
    own = own + (match.float() * model.own_bias).sum(2)
    negatives = model.score(query, vectors.index_select(0, local.negatives), bias.index_select(0, local.negatives)) + local.log_weight  # [B, M]
    negatives = negatives.masked_fill(local.collides, float("-inf"))

    def log_probs_at(temperature: float) -> torch.Tensor:
        others = (negatives - local.log_weight) / temperature + local.log_weight
        summed = torch.cat([(own / temperature).masked_fill(~local.counts, float("-inf")), others], 1)
        return own / temperature - torch.logsumexp(summed, 1, keepdim=True)

    partition = torch.logsumexp(torch.cat([own.masked_fill(~local.counts, float("-inf")), negatives], 1), 1)
    log_probs = own - partition[:, None]
    place = torch.arange(len(batch.query)) - torch.searchsorted(batch.query, batch.query)
    width = local.own.shape[1] - batch.history.shape[1]
    labels = torch.arange(width - batch.label_rows.shape[1], width).expand(batch.label_rows.shape)
    return _with_representations(_combine(log_probs, place, batch, labels, weights, log_probs_at), query, batch, weights)


class Products(torch.autograd.Function):
    """Multiply each query [B, D] with rows of its own, vectors [R, D] at index [B, C] → [B, C].

    The gradient is written at once in the order in which rows add it up; what autograd makes of ``vectors[index]`` is copied on the way, and takes
    twice the time for the same bits.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, vectors: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return the products."""
        chosen = vectors.index_select(0, index.flatten()).view(*index.shape, -1)  # [B, C, D]
        ctx.save_for_backward(query, chosen, index)
        ctx.num_rows = len(vectors)
        products: torch.Tensor = torch.einsum("bd,bcd->bc", query, chosen)
        return products

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of query and vectors, for that of the products [B, C]."""
        (grad,), (query, chosen, index) = grads, ctx.saved_tensors
        of_chosen = grad[:, :, None] * query[:, None, :]
        of_vectors = query.new_zeros(ctx.num_rows, query.shape[1]).index_add_(0, index.flatten(), of_chosen.view(-1, query.shape[1]))
        return torch.bmm(grad[:, None, :], chosen)[:, 0], of_vectors, None


@dataclass(frozen=True)
class SampledRows:
    """Hold the local candidate columns of a sampled mini-batch.

    Attributes:
        own: Targets, labels, history of each example, in that order; -1 pads. [B, C] int64
        counts: False on padding and repeats, so that each row enters the partition sum once. [B, C] bool
        negatives: Shared uniform negatives. [M] int64
        collides: True where a negative is among the example's own rows or in another namespace. [B, M] bool
        log_weight: log(V / M).
    """

    own: torch.Tensor
    counts: torch.Tensor
    negatives: torch.Tensor
    collides: torch.Tensor
    log_weight: float


def localise(batch: Batch, num_rows: int, num_negatives: int, namespaces: torch.Tensor) -> tuple[torch.Tensor, Batch, SampledRows]:
    """Draw negatives and renumber all rows of a mini-batch as columns of a small local table.

    Returns:
        (rows of the local table [R], the batch in local columns, its candidates)
    """
    num, length = batch.history.shape
    place = torch.arange(len(batch.query)) - torch.searchsorted(batch.query, batch.query)
    targets = torch.full((num, int(place.max()) + 1), -1)
    targets[batch.query, place] = batch.targets
    own = torch.cat([targets, batch.label_rows, batch.history], 1)  # [B, C]
    negatives = torch.randint(0, num_rows, (num_negatives,))
    rows, column = torch.unique(torch.cat([own.flatten(), negatives, torch.tensor([-1])]), return_inverse=True)
    column = column - 1  # Row -1 sorts first, so padding stays -1.
    own, negatives = column[: own.numel()].view(own.shape), column[own.numel() : own.numel() + num_negatives]
    member = torch.zeros(len(rows), num, dtype=torch.bool)  # By row, so that what is taken of it lies side by side.
    member[own + 1, torch.arange(num)[:, None]] = True
    collides = member.index_select(0, negatives + 1).T | (batch.namespace[:, None] != namespaces[rows[negatives + 1]][None, :])
    ordered, order = own.sort(dim=1, stable=True)
    repeat = torch.cat([torch.zeros(num, 1, dtype=torch.bool), ordered[:, 1:] == ordered[:, :-1]], 1)
    counts = torch.zeros_like(repeat).scatter(1, order, ~repeat) & (own >= 0)
    width = targets.shape[1]
    columns = own[:, width : width + batch.label_rows.shape[1]]
    local = replace(batch, history=own[:, -length:], targets=own[batch.query, place], label_rows=columns)
    weight = float(np.log(num_rows / num_negatives))
    return rows[1:], local, SampledRows(own, counts, negatives, collides, weight)


def _combine(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    batch: Batch,
    label_columns: torch.Tensor,
    weights: Weights,
    log_probs_at: Callable[[float], torch.Tensor],
) -> LossParts:
    """Put the losses of candidates' log-probabilities [B, C], and of those at other temperatures, together."""
    hard = multi_target_cross_entropy(log_probs, targets, batch.query, len(log_probs))  # [B]
    further, share = weights.further, weights.share
    learns = share > 0 or further.kl > 0 or further.listwise > 0
    if not learns or not bool((batch.label_rows >= 0).any()):  # A student on events alone pays nothing for labels.
        return LossParts((batch.weight * hard).mean(), float(hard.detach().mean()), 0.0)
    # A label on a row that is no candidate would be -inf times 0.
    probs = torch.where(batch.label_rows >= 0, batch.label_probs, torch.zeros(()))
    if further.dynamic_temperature:
        probs = tempered(probs, temperature_by_certainty(probs))
    columns = label_columns.clamp(min=0)
    log_labels = torch.where(probs > 0, log_probs.gather(1, columns), torch.zeros(()))
    soft = soft_label_cross_entropy(log_labels, torch.arange(probs.shape[1]).expand(probs.shape), probs)
    labelled = probs.sum(1)  # How much the labels count, example by example.
    mixed = hard * (1 - share * labelled) + share * soft
    if further.kl > 0:
        temperature = further.kl_temperature
        mixed = mixed + further.kl * labelled * kl_with_tail(log_probs_at(temperature), columns, tempered(probs, temperature), temperature)
    if further.listwise > 0:
        mixed = mixed + further.listwise * labelled * listwise_ranking(log_probs, columns, probs > 0)
    count = float(labelled.sum())
    return LossParts((batch.weight * mixed).mean(), float(hard.detach().mean()), float(soft.detach().sum()) / count if count else 0.0)


def _with_representations(parts: LossParts, query: torch.Tensor, batch: Batch, weights: Weights) -> LossParts:
    """Add what the student's queries [B, D] lack beside the teachers' representations: the mean over the teachers that know the example."""
    further = weights.further
    if not further.on_representations or not batch.representations:
        return parts
    total, count = torch.zeros(len(query)), torch.zeros(len(query))
    for name, theirs in batch.representations.items():
        known = theirs.abs().sum(1) > 0
        index = known.nonzero()[:, 0]
        if len(index) < LEAST_COMPARED:
            continue
        mine, theirs, projection = query.index_select(0, index), theirs.index_select(0, index), weights.projections[name]
        loss = torch.zeros(len(index))
        if further.hints > 0:
            loss = loss + further.hints * feature_hints(mine, [Hint(theirs, projection, torch.ones(len(index), dtype=torch.bool))])
        if further.contrastive > 0:
            loss = loss + further.contrastive * info_nce(mine @ projection, theirs, further.contrastive_temperature)
        if further.distances > 0:
            loss = loss + further.distances * relational_distances(mine, theirs)
        if further.angles > 0:
            some = min(MOST_IN_TRIANGLES, len(index))
            loss = torch.cat([loss[:some] + further.angles * relational_angles(mine[:some], theirs[:some]), loss[some:]])
        total, count = total.index_add(0, index, loss), count + known
    return replace(parts, total=parts.total + (batch.weight * total / count.clamp(min=1)).mean())


def element_dropout_at(rate: float, dim: int) -> float:
    """Return the rate at which ``dim`` dimensions get the noise that ``rate`` makes in a score of `FULL_DIM` ones; from there on ``rate`` itself.

    Dropping elements of a unit vector at a rate p adds a variance of p / (1 - p) / dim to its products with others.
    """
    odds = rate / (1 - rate) * min(1.0, dim / FULL_DIM)
    return odds / (1 + odds)


def tempered(probs: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Flatten labels within their list, which keeps its sum, as the mixture does: probs [B, K], 0 on padding; temperature, one or [B, 1]."""
    flat = torch.where(probs > 0, probs ** (1.0 / temperature), torch.zeros(()))
    return flat * (probs.sum(1) / flat.sum(1).clamp(min=1e-12))[:, None]


def temperature_by_certainty(probs: torch.Tensor) -> torch.Tensor:
    """Return 2 for labels that one item has alone, 1/2 for even ones, and in between 2^(1 - 2 H / log K): probs [B, K] → [B, 1]."""
    normed = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
    doubt = -torch.xlogy(normed, normed).sum(1, keepdim=True) / max(math.log(probs.shape[1]), 1e-12)
    return torch.exp2(1 - 2 * doubt)


def shuffled(num: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    """Cut a permutation of ``num`` into mini-batches of ``size``; the last may be smaller."""
    order = np.random.default_rng([seed, 11]).permutation(num)
    return [order[start : start + size] for start in range(0, num, size)]
