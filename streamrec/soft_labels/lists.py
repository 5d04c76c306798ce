"""Turn the lists of counted teachers into scores as all teachers give them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.ranking import RANK_LIMIT, UNRANKED
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import CANDIDATES_A_LABEL, PROBE_FACTORS, TeacherScores
from streamrec.teachers.counted import CountedTeacher

COUNTED_VERSION = "counted"
"""Stands where other teachers have their version: what these know is as new as the micro-batch before."""
_PROBED = 256
"""Queries that other temperatures are tried on."""


def score_counted(
    teachers: Mapping[str, CountedTeacher],
    examples: Examples,
    temperatures: Mapping[str, float],
    top_k: int,
    seen: list[NDArray[np.int32]] | None = None,
) -> dict[str, TeacherScores]:
    """Score examples with the counted teachers that know anything.

    A list's probabilities sum to 1 over its own rows: what it leaves out has none. That it may miss the target is told by its weight in the mixture.

    Args:
        teachers: By name; they have not learned from the examples.
        examples: Q queries.
        temperatures: Teacher name to temperature.
        top_k: Labels that are kept of the mixture; of a list `CANDIDATES_A_LABEL` times as many are.
        seen: Rows that are no candidates when ranks are taken, per query.
    """
    scores = {}
    for name, teacher in teachers.items():
        if len(examples) and teacher.num_queries:
            began_s = time.perf_counter()
            answer = list_scores(*teacher.answer(examples, RANK_LIMIT), examples, temperatures[name], top_k, seen)
            scores[name] = replace(answer, seconds=time.perf_counter() - began_s)
    return scores


def list_scores(
    rows: NDArray[np.int32],
    values: NDArray[np.float32],
    examples: Examples,
    temperature: float,
    top_k: int,
    seen: list[NDArray[np.int32]] | None = None,
) -> TeacherScores:
    """Return a list's scores.

    Args:
        rows: Candidates, best first, -1 pads. [Q, C]
        values: How much speaks for each; only ratios within a query count. [Q, C]
        examples: Q queries.
        temperature: Probabilities are ``values ** (1 / temperature)``, normed.
        top_k: Labels that are kept of the mixture; of a list `CANDIDATES_A_LABEL` times as many are.
        seen: Rows that are no candidates when ranks are taken, per query.
    """
    held = (rows >= 0) & (values > 0)
    logits = np.full(rows.shape, -np.inf, np.float32)
    logits[held] = np.log(values[held])
    rows = np.where(held, rows, -1)
    query = examples.query_of_target
    hits = rows[query] == examples.target_rows[:, None]
    found, place = hits.any(1), hits.argmax(1)
    target_logits = np.where(found, logits[query, place], -np.inf).astype(np.float32)
    probed = np.arange(0, len(examples), max(1, len(examples) // _PROBED))
    known = found & np.isin(query, probed)
    place_of = np.searchsorted(probed, query[known])
    probe = dict.fromkeys(PROBE_FACTORS, 0.0)
    for factor in PROBE_FACTORS if known.any() else ():
        norm = _log_norm(logits[probed], temperature * factor)
        probe[factor] = float((target_logits[known] / (temperature * factor) - norm[place_of]).mean())
    return TeacherScores(
        COUNTED_VERSION,
        rows[:, : CANDIDATES_A_LABEL * top_k],
        logits[:, : CANDIDATES_A_LABEL * top_k],
        _log_norm(logits, temperature),
        target_logits,
        list_ranks(rows, examples, seen),
        temperature,
        probe,
    )


def _log_norm(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    largest = logits.max(1, initial=-np.inf)
    known = np.isfinite(largest)
    shift = np.where(known, largest, 0.0)
    total = np.exp((logits - shift[:, None]) / temperature).sum(1)
    return np.where(known, np.log(np.maximum(total, 1e-30)) + shift / temperature, -np.inf).astype(np.float32)


def list_ranks(rows: NDArray[np.int32], examples: Examples, seen: list[NDArray[np.int32]] | None = None) -> NDArray[np.int32]:
    """Rank each target within its query's list, best first [Q, C]; `UNRANKED` where the list lacks it, or ``seen`` has it. → [T]."""
    counts = rows >= 0
    if seen is not None:
        counts &= ~np.stack([np.isin(mine, had) for mine, had in zip(rows, seen, strict=True)])
    query = examples.query_of_target
    hits = (rows[query] == examples.target_rows[:, None]) & counts[query]
    before = np.take_along_axis(np.cumsum(counts, 1)[query], hits.argmax(1)[:, None], 1)[:, 0] - 1
    return np.where(hits.any(1), before, UNRANKED).astype(np.int32)
