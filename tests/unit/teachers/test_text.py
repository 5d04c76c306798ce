"""The teacher of item texts, with an encoder whose vectors are known."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from streamrec.config import TeachersConfig, TextConfig
from streamrec.errors import ConfigError
from streamrec.models.projection import decayed, fit
from streamrec.models.text import WordEncoder, open_encoder
from streamrec.state import ComponentState
from streamrec.teachers import text
from streamrec.teachers.kinds import check_teachers
from streamrec.teachers.protocol import Material, content_request
from streamrec.teachers.text import TEXT, TextTeacher
from streamrec.testing.circles import Circles
from streamrec.testing.novelties import Novelties

CONFIG = TeachersConfig()


class Spy:
    """Encodes a text's first word by a fixed random vector, and the whole text by a little noise; notes what it was asked."""

    fingerprint = "spy"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        seeds = [sum(map(ord, given.split()[0])) for given in texts]
        vectors = np.asarray([np.random.default_rng(seed).standard_normal(12) for seed in seeds])
        vectors += 0.1 * np.asarray([np.random.default_rng(sum(map(ord, given))).standard_normal(12) for given in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr(text, "open_encoder", lambda model, max_tokens: made)
    return made


def refreshed(
    material: Material, previous: ComponentState | None = None, config: TeachersConfig = CONFIG
) -> tuple[ComponentState, dict[str, object]]:
    return TEXT.refresh(content_request(material, config), previous, config, 3, None)


@pytest.mark.parametrize("moved", [0, 1])
def test_items_that_nobody_has_touched_rank_by_their_titles(spy: Spy, moved: int) -> None:
    world = Novelties(moved=moved)
    state, facts = refreshed(world.material())
    assert facts["num_known"] == world.num_items
    asked = world.draw_new(400, seed=1)
    scores = TextTeacher(state).score(asked.history, world.new_rows)
    rank = (scores > scores[np.arange(400), np.searchsorted(world.new_rows, asked.target_rows)][:, None]).sum(1)
    num_of_taste = len(world.new_rows) // world.num_tastes
    assert np.mean(rank < num_of_taste) > 0.9, f"by chance {1 / world.num_tastes}"


def test_a_new_items_chances_are_as_good_as_those_of_like_items(spy: Spy) -> None:
    world = Novelties()
    state, _ = refreshed(world.material())
    taste = world.taste_of(np.arange(world.num_items))
    scores = TextTeacher(state).score(np.asarray([[0]], np.int32), np.arange(world.num_items, dtype=np.int32))[0]
    assert scores[world.new_rows][taste[world.new_rows] == 0].mean() > scores[: world.new_rows[0]][taste[: world.new_rows[0]] == 1].mean()


def test_a_refresh_encodes_new_texts_alone_and_equal_ones_once(spy: Spy) -> None:
    first, facts = refreshed(Circles().material(CONFIG))
    assert len(spy.asked) == len(set(spy.asked)) == 8, "twelve items, four of which have another one's title"
    assert facts["num_encoded"] == 8
    second, facts = refreshed(Circles(reused=4).material(CONFIG), first)
    assert spy.asked[8:] == ["ecru second"]
    again, _ = refreshed(Circles(reused=4).material(CONFIG))
    np.testing.assert_array_equal(second.arrays["vectors"], again.arrays["vectors"])


def test_vectors_of_another_encoder_are_not_taken_over(spy: Spy) -> None:
    first, _ = refreshed(Circles().material(CONFIG))
    spy.fingerprint = "another"
    refreshed(Circles().material(CONFIG), first)
    assert len(spy.asked) == 16


def test_vectors_that_updates_give_place_items_without_any_text(spy: Spy) -> None:
    world = Novelties()
    state, facts = refreshed(world.material(shown="image"))
    assert (facts["num_encoded"], facts["num_known"]) == (0, world.num_items)
    asked = world.draw_new(200, seed=2)
    best = world.new_rows[TextTeacher(state).score(asked.history, world.new_rows).argmax(1)]
    assert np.mean(world.taste_of(best) == world.taste_of(asked.target_rows)) > 0.9
    vectors = TextTeacher(state).represent(asked.history)
    same = world.taste_of(asked.history[:, 0])[:, None] == world.taste_of(asked.history[:, 0])[None, :]
    likeness = vectors @ vectors.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.5


def test_an_item_without_text_and_vectors_is_not_known(spy: Spy) -> None:
    world = Circles()
    material = world.material(CONFIG)
    silent = ComponentState({**content_request(material, CONFIG).arrays}, {})
    texts = [f"{number} a" if number != 3 else "" for number in range(13)]
    from_texts = {"text_bytes": np.frombuffer("".join(texts).encode(), np.uint8), "text_offsets": np.cumsum([0, *map(len, texts)])}
    state, _ = TEXT.refresh(ComponentState({**silent.arrays, **from_texts}, {}), None, CONFIG, 3, None)
    scores = TextTeacher(state).score(np.asarray([[1], [3]], np.int32), np.arange(13, dtype=np.int32))
    assert np.flatnonzero(np.isneginf(scores[0])).tolist() == [3, 12]
    assert np.isneginf(scores[1]).all()


def test_nothing_is_fitted_to_a_handful_of_events() -> None:
    features = np.eye(4, dtype=np.float32)
    found = fit(features, np.ones(4, bool), np.asarray([[0, 1, -1]], np.int32), 0.9, 1000, 0)
    np.testing.assert_array_equal(found.weights, np.eye(4))
    assert not found.prior.any()
    np.testing.assert_allclose(decayed(features, np.asarray([[2, -1, 0]], np.int32), 0.5), [[0.25, 0, 1, 0]])


def test_the_closed_form_is_the_ridge_solution() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, 5)).astype(np.float32)
    sequences = rng.integers(0, 30, (400, 6)).astype(np.int32)
    sequences[:, 1::2] = (sequences[:, ::2] + 1) % 30
    found = fit(features, np.ones(30, bool), sequences, 0.5, 10**6, 0)
    order = np.random.default_rng(0).permutation(400)
    learned = sequences[order][40:]
    pairs = [(learned[:, place::-1][:, : place + 1], learned[:, place + 1]) for place in range(5)]
    past = np.concatenate([decayed(features, histories, 0.5) for histories, _ in pairs]).astype(np.float64)
    following = features[np.concatenate([targets for _, targets in pairs])].astype(np.float64)
    items = (features.T @ features).astype(np.float64)
    gram, inverse = past.T @ past, np.linalg.inv(items + 0.1 * np.trace(items) / 5 * np.eye(5))
    solutions = [np.linalg.solve(gram + ridge * np.trace(gram) / 5 * np.eye(5), past.T @ following) @ inverse for ridge in (0.003, 0.03, 0.3)]
    assert min(np.abs(found.weights - solution).max() / np.abs(solution).max() for solution in solutions) < 1e-3


def test_words_are_a_model_that_needs_nothing_and_another_that_is_not_here_is_told(tmp_path: Path) -> None:
    vectors = open_encoder("words", 8).encode(["Toy Story", "story toy", "Heat", ""])
    np.testing.assert_allclose(vectors[0], vectors[1])
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0])
    assert WordEncoder().encode([]).shape == (0, 512)
    for name in ("no-such-model-anywhere", str(tmp_path), "json", "a/b"):
        with pytest.raises(ConfigError, match=r"teachers\.text\.model is not here, got .*allowed 'words', a folder"):
            open_encoder(name, 8)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a model, and stands for the extra."""
    folder = tmp_path / "some_model" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1")
    monkeypatch.syspath_prepend(str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: find("json" if name == "transformers" else name))
    return folder


def test_a_model_is_found_in_a_folder_and_in_a_package_that_is_not_imported(model: Path) -> None:
    encoder = open_encoder("some-model", 8)
    assert encoder.fingerprint == open_encoder(str(model), 8).fingerprint != open_encoder(str(model), 9).fingerprint
    (model / "model.safetensors").write_bytes(b"2")
    assert open_encoder("some-model", 8).fingerprint != encoder.fingerprint


def test_a_language_model_without_the_extra_says_what_to_install_before_anything_starts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TeachersConfig(enabled=("text",), text=TextConfig(model=str(model)))
    check_teachers(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the extra 'text'.*streamrec\[text\]"):
        check_teachers(config)
