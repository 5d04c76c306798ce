"""Define the student's losses as pure functions: of log-probabilities on labels, and of representations of the same histories.

Shapes: ``B`` examples, ``C`` candidates, ``K`` labels an example, ``D`` the student's dimension, ``E`` a teacher's. Every loss is given per example,
so that examples can be weighed. The last four compare representations; nothing calls them before teachers give theirs (docs/decisions/0026).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import normalize, smooth_l1_loss

LEAST_TAIL = 1e-6
"""The student's probability outside of the labels is taken for no less: a sum of float32 can't tell it from 0."""
_NOTHING = -1e4
"""Stands for the logarithm of 0 where -inf would make gradients that are no numbers."""


def multi_target_cross_entropy(log_probs: torch.Tensor, targets: torch.Tensor, query: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Compute the mean negative log-likelihood of each query's targets.

    **Requirements**: ``query`` ascends and every query has at least one target.

    **Inputs**: log_probs of the candidates [B, C] float32; targets, a candidate's column each [T] int64; query of each target [T] int64.

    **Relations**: with one target a query this is the cross-entropy; with several it is the cross-entropy to the uniform distribution over
    the basket.

    Returns:
        Loss per query. [B]

    Example:
        >>> log_probs = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> float(multi_target_cross_entropy(log_probs, torch.tensor([0]), torch.tensor([0]), 1))  # doctest: +ELLIPSIS
        0.693...
    """
    picked = log_probs[query, targets]  # [T]
    total = torch.zeros(num_queries, dtype=log_probs.dtype).index_add(0, query, picked)
    count = torch.zeros(num_queries, dtype=log_probs.dtype).index_add(0, query, torch.ones_like(picked))
    return -total / count


def soft_label_cross_entropy(log_probs: torch.Tensor, columns: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy of the student to a teacher mixture on its top-K candidates.

    **Requirements**: ``probs`` is 0 on padding and sums to how much the example's labels count; temperature has been applied when the labels
    were made.

    **Inputs**: log_probs of the candidates [B, C] float32; columns of the labels [B, K] int64, 0 on padding; probs [B, K] float32.

    **Relations**: KL divergence plus the labels' entropy, which has no gradient; rows without labels give 0.

    References: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

    Returns:
        Loss per example. [B]
    """
    return -(probs * log_probs.gather(1, columns)).sum(1)


def kl_with_tail(log_probs: torch.Tensor, columns: torch.Tensor, probs: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute the divergence of the student from a teacher's best K candidates and all others taken together.

        KL = Σ_k t_k log(t_k / s_k) + t₊ log(t₊ / s₊),    t₊ = 1 - Σ t_k,  s₊ = 1 - Σ s_k

    **Requirements**: both sides have the same temperature T; ``probs`` is 0 on padding and sums to at most 1, the rest being the tail.

    **Inputs**: log_probs of the candidates at T [B, C] float32; columns of the labels [B, K] int64, 0 on padding; probs at T [B, K] float32.

    **Relations**: without a tail on the teacher's side, and but for the teacher's entropy, it is `soft_label_cross_entropy`; the tail also tells the
    student how much lies outside of the list, without naming any item. T² keeps gradients as large as at T = 1.

    References: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

    Returns:
        Loss per example; 0 without labels. [B]

    Example:
        >>> halves = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> float(kl_with_tail(halves, torch.tensor([[0]]), torch.tensor([[0.5]])))
        0.0
    """
    held = probs > 0
    chosen = torch.where(held, log_probs.gather(1, columns), _NOTHING)
    tail = (1 - probs.sum(1)).clamp(min=0)
    log_tail = _log_tail(chosen)
    inside = torch.xlogy(probs, probs) - probs * torch.where(held, chosen, 0.0)
    return temperature**2 * (inside.sum(1) + torch.xlogy(tail, tail) - tail * log_tail) * held.any(1)


def _log_tail(chosen: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of what is left of 1: log-probabilities [B, K] → [B]."""
    return torch.log((1 - chosen.exp().sum(1)).clamp(min=LEAST_TAIL))


def listwise_ranking(log_probs: torch.Tensor, columns: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Compute how unlikely the student finds the teacher's order of its best K candidates, all others behind them.

        L = - 1/K Σ_k log( s_k / (1 - Σ_{i<k} s_i) )

    which is the Plackett-Luce likelihood of drawing the list one by one from all candidates.

    **Requirements**: labels stand best first.

    **Inputs**: log_probs of the candidates [B, C] float32; columns of the labels [B, K] int64; held, False on padding, wherever it is [B, K] bool.

    **Relations**: with one label it is the cross-entropy to it. Of `soft_label_cross_entropy` it keeps the order and forgets how far apart the
    teacher's probabilities are, so it needs no temperature.

    References: Xia et al., "Listwise Approach to Learning to Rank", ICML 2008 (ListMLE); Kang et al., "DE-RRD: A Knowledge Distillation Framework for
    Recommender System", CIKM 2020, arXiv:2012.04357 (relaxed ranking distillation). **Deviation**: all other candidates are the uninteresting ones,
    not a sample of them.

    Returns:
        Loss per example, mean over its labels; 0 without labels. [B]

    Example:
        >>> log_probs = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> loss = listwise_ranking(log_probs, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
        >>> round(float(loss), 4)  # log 2, twice, halved
        0.6931
    """
    chosen = torch.where(held, log_probs.gather(1, columns), _NOTHING)
    backwards = torch.cat([_log_tail(chosen)[:, None], chosen.flip(1)], 1)
    left = torch.logcumsumexp(backwards, 1)[:, 1:].flip(1)  # Of each place and all behind it. [B, K]
    return torch.where(held, left - chosen, 0.0).sum(1) / held.sum(1).clamp(min=1)


def info_nce(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Compute how hard it is to find a history's teacher representation among those of the others by the student's.

        L_b = - log( exp(cos(s_b, t_b) / T) / Σ_a exp(cos(s_b, t_a) / T) )

    **Requirements**: histories that are equal to the teacher (one item, the same one) are each other's negatives; few of them a batch do no harm.

    **Inputs**: student, projected to the teacher's dimension [B, E] float32; teacher [B, E] float32, which gets no gradient.

    **Relations**: where `feature_hints` asks for the same place, this asks to be nearer to it than to others', which the student's few dimensions may
    well be able to do. A bound on the information that both share, better the larger B.

    References: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, arXiv:1807.03748; Tian et al., "Contrastive
    Representation Distillation", ICLR 2020, arXiv:1910.10699. **Deviation** from the latter: negatives from the batch, no memory bank.

    Returns:
        Loss per example. [B]

    Example:
        >>> both = torch.eye(2)
        >>> [round(value, 4) for value in info_nce(both, both, 0.5).tolist()]  # log(1 + exp(-2))
        [0.1269, 0.1269]
    """
    logits = normalize(student, dim=1) @ normalize(teacher.detach(), dim=1).T / temperature
    return -torch.log_softmax(logits, 1).diagonal()


class Hint(NamedTuple):
    """Hold what one teacher says of a batch's histories, and how the student is compared with it.

    Attributes:
        representation: [B, E] float32
        projection: Learned with the student, one a teacher. [D, E] float32
        known: Whether the teacher could represent the example. [B] bool
    """

    representation: torch.Tensor
    projection: torch.Tensor
    known: torch.Tensor


def feature_hints(student: torch.Tensor, hints: Sequence[Hint]) -> torch.Tensor:
    """Compute how far the student's representation, seen through each teacher's projection, is from the teachers'.

        L_b = mean over teachers t that know b of ‖ s_b P_t / ‖s_b P_t‖ - r_tb / ‖r_tb‖ ‖²

    **Requirements**: the projections are parameters, or nothing but an accident aligns the two spaces.

    **Inputs**: student [B, D] float32; of each teacher its representation [B, E], projection [D, E] and whom it knows [B]. No teacher gives 0.

    **Relations**: twice (1 - cosine), so neither lengths nor a teacher's units count. The strictest of the losses on representations; see `info_nce`
    and `relational_distances`, which leave the student its own axes.

    References: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550; several teachers, each with its own projection:
    Wu et al., "One Teacher is Enough? Pre-trained Language Model Distillation from Multiple Teachers", Findings of ACL 2021, arXiv:2106.01023.
    **Deviation**: unit vectors.

    Returns:
        Loss per example; 0 where no teacher knows it. [B]

    Example:
        >>> hint = Hint(torch.tensor([[0.0, 3.0]]), torch.eye(2), torch.tensor([True]))
        >>> float(feature_hints(torch.tensor([[2.0, 0.0]]), [hint]))
        2.0
    """
    total, count = torch.zeros(len(student)), torch.zeros(len(student))
    for representation, projection, known in hints:
        apart = normalize(student @ projection, dim=1) - normalize(representation.detach(), dim=1)
        total = total + torch.where(known, apart.square().sum(1), 0.0)
        count = count + known
    return total / count.clamp(min=1)


def relational_distances(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute how differently student and teacher see who is near whom.

    Distances between all pairs of a batch, in units of their mean, compared by Huber's loss.

    **Requirements**: at least two different histories on each side.

    **Inputs**: student [B, D] float32; teacher [B, E] float32, which gets no gradient. No projection: dimensions need not agree.

    **Relations**: keeps the topology of the space and not its axes; `relational_angles` also keeps what distances alone leave open.

    References: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068; Kang et al., "Topology Distillation for Recommender
    System", KDD 2021, arXiv:2106.08700 (there with cosines).

    Returns:
        Loss per example, mean over the others. [B]

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
        >>> relational_distances(2 * corner, corner).tolist()
        [0.0, 0.0, 0.0]
    """
    mine, theirs = (_in_units_of_their_mean(torch.cdist(part, part)) for part in (student, teacher.detach()))
    return smooth_l1_loss(mine, theirs, reduction="none").sum(1) / max(len(student) - 1, 1)


def _in_units_of_their_mean(distances: torch.Tensor) -> torch.Tensor:
    num = len(distances)
    return distances / (distances.sum() / max(num * (num - 1), 1)).clamp(min=1e-12)


def relational_angles(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute how differently student and teacher see the angles of all triangles of a batch.

    **Requirements**: small batches; it takes B² (B + D + E) numbers of memory.

    **Inputs**: student [B, D] float32; teacher [B, E] float32, which gets no gradient.

    **Relations**: angles are of a higher order than `relational_distances` and do not change with scale.

    References: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.

    Returns:
        Loss per example, the triangle's corner: mean over pairs of others, Huber's loss of cosines. [B]

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> relational_angles(corner @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), corner).tolist()
        [0.0, 0.0, 0.0]
    """
    mine, theirs = (_cosines(part) for part in (student, teacher.detach()))
    others = max(len(student) - 1, 1)
    return smooth_l1_loss(mine, theirs, reduction="none").sum((1, 2)) / others**2


def _cosines(points: torch.Tensor) -> torch.Tensor:
    """Return the cosine at each point between the ways to two others: [B, E] → [corner, one, other]."""
    ways = normalize(points[None, :, :] - points[:, None, :], dim=2)
    return ways @ ways.transpose(1, 2)
