"""Losses on teachers' representations of histories, as a student learns by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamrec.config import FeaturesConfig, LossesConfig, StudentConfig
from streamrec.features.examples import Examples
from streamrec.models.losses import relational_angles, relational_distances
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import PROJECTION, Learner
from streamrec.testing.classroom import no_labels, teach

NUM_ITEMS, LENGTH, TOP, WIDTH = 100, 4, 3, 6
DIRECTIONS = np.random.default_rng(5).normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)


SAMPLED: dict[str, Any] = {"full_softmax_items": 5, "num_negatives": 8}


def learner(settings: dict[str, Any] | None = None, **losses: float) -> Learner:
    further = {"losses": LossesConfig(**losses), "learning_rate": 0.03, "bootstrap_rate": 1.0, "faster_rate": 1.0, **(settings or {})}
    config = StudentConfig(dim=8, batch_size=32, element_dropout=0.0, history_dropout=0.0, **further)
    made = Learner(config, FeaturesConfig(history_length=LENGTH, words_per_item=0, word_buckets=2), TOP, seed=3)
    made.put_items(np.arange(NUM_ITEMS, dtype=np.int32), np.zeros((NUM_ITEMS, 0), np.int32), np.zeros(NUM_ITEMS, np.int32))
    return made


def lesson(num: int = 96, seed: int = 0) -> tuple[Examples, SoftLabels]:
    """Queries whose targets say nothing, and a teacher that sees in a history the mean of its items' directions; of every fifth it knows nothing."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, NUM_ITEMS, (num, LENGTH)).astype(np.int32)
    vectors = DIRECTIONS[history].mean(1)
    vectors[::5] = 0.0
    examples = Examples(
        history,
        np.arange(num + 1),
        rng.integers(0, NUM_ITEMS, num).astype(np.int32),
        np.ones(num, np.float32),
        np.arange(num),
        np.zeros(num, np.int32),
    )
    return examples, replace(no_labels(num, TOP), representations={"teacher": vectors})


def queries(made: Learner, examples: Examples) -> torch.Tensor:
    with torch.no_grad():
        return made.model.encode(made.tables.rows("vectors"), torch.from_numpy(examples.history.astype(np.int64)))


def apart(made: Learner, examples: Examples, theirs: NDArray[np.float32], kind: str) -> float:
    """How far the student is from the teacher by a measure of its own; each is 0 where they agree."""
    mine, known = queries(made, examples), theirs.any(1)
    mine, other = mine[torch.from_numpy(known)], torch.from_numpy(theirs[known])
    if kind == "distances":
        return float(relational_distances(mine, other).mean())
    if kind == "angles":
        return float(relational_angles(mine, other).mean())
    # What the best projection leaves unexplained of others' histories.
    half = len(mine) // 2
    fitted = torch.linalg.lstsq(mine[:half], other[:half]).solution
    return float(1 - torch.nn.functional.cosine_similarity(mine[half:] @ fitted, other[half:], dim=1).mean())


@pytest.mark.parametrize("settings", [{}, SAMPLED])
@pytest.mark.parametrize("kind", ["hints", "contrastive", "distances", "angles"])
def test_each_loss_brings_the_student_nearer_to_what_the_teacher_sees(kind: str, settings: dict[str, Any]) -> None:
    without, by_it = learner(settings), learner(settings, **{kind: 5.0})
    for made in (without, by_it):
        for seed in range(25):
            teach(made, *lesson(seed=seed), seed, 2)
    examples, labels = lesson(seed=99)
    theirs = labels.representations["teacher"]
    near, far = apart(by_it, examples, theirs, kind), apart(without, examples, theirs, kind)
    assert near < 0.9 * far


def test_a_version_has_none_of_what_only_learning_by_representations_needs() -> None:
    made = learner(hints=1.0)
    teach(made, *lesson(), 0)
    assert [name for name in made._dense if name.startswith(PROJECTION)] == [f"{PROJECTION}teacher"]
    assert made.export()[0].keys() == learner().export()[0].keys()


def test_a_student_without_such_a_loss_learns_the_same_bits_whatever_teachers_see() -> None:
    one, other = learner(), learner()
    examples, labels = lesson()
    teach(one, examples, labels, 0)
    teach(other, examples, no_labels(len(examples), TOP), 0)
    assert one.digest() == other.digest()


@pytest.mark.parametrize("begun", [0, 2])
def test_what_was_saved_goes_on_in_the_same_bits_also_where_a_teacher_came_after_the_snapshot(begun: int) -> None:
    whole = learner(SAMPLED, hints=1.0, contrastive=0.5)
    for seed in range(begun):
        teach(whole, *lesson(seed=seed), seed)
    base = whole.snapshot()
    teach(whole, *lesson(5, seed=begun), begun)
    delta = whole.delta()
    assert delta is not None
    restored = learner(SAMPLED, hints=1.0, contrastive=0.5)
    teach(restored, *lesson(seed=50), 50)  # What it knew before counts for nothing.
    restored.restore(base, [delta])
    for made in (whole, restored):
        teach(made, *lesson(seed=7), 7)
    assert whole.digest() == restored.digest()


def test_a_round_that_is_taken_back_takes_a_new_teachers_projection_with_it() -> None:
    made, alone = learner(hints=1.0), learner(hints=1.0)
    made.remember()
    teach(made, *lesson(), 0)
    made.go_back()
    for each in (made, alone):
        teach(each, *lesson(seed=1), 1)
    assert made.digest() == alone.digest()


def test_a_teacher_of_another_width_is_another_teacher() -> None:
    made = learner(hints=1.0)
    examples, labels = lesson()
    teach(made, examples, labels, 0)
    wider = np.pad(labels.representations["teacher"], ((0, 0), (0, 2)), constant_values=1.0)
    teach(made, examples, replace(labels, representations={"teacher": wider}), 1)
    assert made._dense[f"{PROJECTION}teacher"].shape == (8, WIDTH + 2)


def test_replayed_queries_and_those_that_no_teacher_knows_add_nothing() -> None:
    examples, labels = lesson(32)
    nothing = {"teacher": np.zeros((32, WIDTH), np.float32)}
    joined = SoftLabels.concat([labels, no_labels(32, TOP)])
    assert not joined.representations["teacher"][32:].any()
    one, other = learner(distances=1.0), learner()
    teach(one, examples, replace(labels, representations=nothing), 0)
    teach(other, examples, no_labels(32, TOP), 0)
    assert one.export()[0]["item_vectors"].tobytes() == other.export()[0]["item_vectors"].tobytes()
