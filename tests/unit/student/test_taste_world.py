"""A student in a world whose tastes are known."""

from __future__ import annotations

import numpy as np

from streamrec.config import FeaturesConfig, LossesConfig, StudentConfig
from streamrec.evaluation.baselines import Popularity
from streamrec.evaluation.ranking import per_query_metrics
from streamrec.events.synthetic import synthetic_dataset
from streamrec.features.examples import Examples
from streamrec.features.histories import Histories, HistoryEvents
from streamrec.features.item_text import hash_words
from streamrec.soft_labels.schema import SoftLabels
from streamrec.student.learner import CURRENT, Learner
from streamrec.testing.classroom import Classroom

LENGTH, WORDS, TOP = 6, 3, 5
FEATURES = FeaturesConfig(history_length=LENGTH, words_per_item=WORDS, word_buckets=16)
NUM_TASTES = 5


def toy_world(num_events: int = 1400) -> list[Examples]:
    """Ten batches of examples of a world in which taste tells the next item."""
    world = synthetic_dataset(num_users=50, num_items=60, num_events=num_events, num_tastes=NUM_TASTES, loyalty=0.95, repeats=0.0)
    histories = Histories(LENGTH, 1000)
    rows = np.asarray([int(item[1:]) for item in world.events["item_id"].to_pylist()], np.int32)
    times = world.events["event_time"].to_numpy()
    users = [("default", user) for user in world.events["user_id"].to_pylist()]
    parts = []
    for index in np.array_split(np.arange(num_events), 10):
        zeros = np.zeros(len(index), np.int32)
        names = list(dict.fromkeys(users[i] for i in index))
        codes = np.asarray([names.index(users[i]) for i in index], np.int64)
        batch = HistoryEvents(names, codes, rows[index], times[index], zeros.astype(np.int8), zeros + np.float32(1), zeros)
        parts.append(histories.advance(batch))
    return parts


def play(labelled: str) -> tuple[float, float]:
    """Progressive Recall@20 over the second half, of the student and of popularity."""
    # Nobody weighs these labels by what they explain, so what they do is the cross-entropy's alone: see test_worlds for all of it.
    plain = LossesConfig(listwise=0.0, dynamic_temperature=False)
    made = Learner(StudentConfig(dim=16, batch_size=64, distill_weight=0.5, losses=plain), FEATURES, TOP * 2, seed=0)
    titles = [f"taste{row % NUM_TASTES}" for row in range(60)]
    room = Classroom(made, 2000, FEATURES.history_length, TOP * 2)
    made.put_items(np.arange(60, dtype=np.int32), hash_words(titles, WORDS, 16) * 0 - 1, np.zeros(60, np.int32))
    popularity, rng = Popularity(), np.random.default_rng(0)
    recalls: list[float] = []
    popular: list[float] = []
    for number, part in enumerate(toy_world()):
        ranks = made.ranks(part, [CURRENT])[CURRENT]
        if number >= 2:
            recalls.append(float(per_query_metrics(ranks, part)["recall@20"].mean()))
            popular.append(float(per_query_metrics(popularity.ranks(part, np.zeros(60, np.int32))["popular"], part)["recall@20"].mean()))
        popularity.update(part.target_rows, part.query_of_target)
        labels = None
        if labelled != "none":
            taste = part.history[:, 0] % NUM_TASTES if labelled == "good" else rng.integers(0, NUM_TASTES, len(part))
            rows = taste[:, None] + NUM_TASTES * np.arange(TOP * 2)[None, :]
            if labelled == "random":
                rows = rng.integers(0, 60, rows.shape)
            weights = 1.0 / np.arange(2, 2 + TOP * 2) if labelled == "good" else np.ones(TOP * 2)
            labels = SoftLabels(rows.astype(np.int32), np.tile(weights / weights.sum(), (len(part), 1)).astype(np.float32), {})
        room.step(part, labels, number)
    return float(np.mean(recalls)), float(np.mean(popular))


def test_the_student_beats_popularity_and_a_good_teacher_helps_while_a_random_one_does_little_harm() -> None:
    alone, popular = play("none")
    good, _ = play("good")
    noise, _ = play("random")
    assert alone > popular + 0.05
    assert good > alone + 0.02
    assert noise > popular
    assert noise > alone - 0.1
