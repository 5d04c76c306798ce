"""Place items by the words that their catalogue says of them, with what a version has learned of words.

Shapes: ``B`` buckets of words, ``D`` dimensions, ``W`` words an item, ``V`` rows, ``n`` items.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from streamrec.errors import ModelRejected
from streamrec.features.item_text import hash_words
from streamrec.state import Arrays

Floats = NDArray[np.float32]


class Content:
    """Give the content part of items' vectors: the mean of their words' vectors, as `streamrec.models.student.StudentModel.content` does.

    Args:
        arrays: A version's, with ``word_vectors`` [B, D] and ``item_words`` [V, W].

    Attributes:
        num_words: (W, B), which say how a text is hashed.
    """

    def __init__(self, arrays: Arrays) -> None:
        vectors, self._words = arrays["word_vectors"], arrays["item_words"]
        self.num_words = self._words.shape[1], len(vectors)
        # Behind the last bucket a row of zeros, which -1 stands for.
        self._vectors: Floats = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])

    @classmethod
    def of(cls, arrays: Arrays) -> Content | None:
        """Return a version's content; None of one that has none: its items have no words, or it is older than this."""
        return cls(arrays) if "word_vectors" in arrays else None

    def hashed(self, texts: Iterable[str]) -> NDArray[np.int32]:
        """Return the words of texts as the learner hashes them. [n, W]."""
        return hash_words(texts, *self.num_words)

    def of_words(self, words: NDArray[np.int32]) -> Floats:
        """Return the content of items with these words [n, W]; zeros where none of them was ever learned. [n, D]."""
        total = np.zeros((len(words), self._vectors.shape[1]), np.float32)
        for column in words.T:
            total += self._vectors[column]
        total /= np.maximum((words >= 0).sum(1, keepdims=True), 1)
        return total

    def of_rows(self, rows: NDArray[np.int32]) -> Floats:
        """Return the content of the version's own items. [n, D]."""
        return self.of_words(self._words[rows])


def check_content(arrays: Arrays) -> None:
    """Refuse words that do not fit a version's other arrays; a version without them is whole.

    Raises:
        ModelRejected: With the array, its shape and the shape that is needed.
    """
    if "word_vectors" not in arrays and "item_words" not in arrays:
        return
    rows, dim = arrays["item_vectors"].shape
    for name, wanted, axis in (("word_vectors", dim, 1), ("item_words", rows, 0)):
        shape = arrays[name].shape if name in arrays else ()
        if len(shape) != 2 or shape[axis] != wanted or not shape[1 - axis]:
            what = f"Model: array {name} does not fit the others"
            raise ModelRejected(what, got=shape or "nothing", allowed=f"two axes, {wanted} of axis {axis}", do="publish the version again")
    num, words = len(arrays["word_vectors"]), arrays["item_words"]
    if words.size and (words.max() >= num or words.min() < -1):
        what = "Model: array item_words names a word that isn't there"
        raise ModelRejected(what, got=f"{words.min()} to {words.max()}", allowed=f"-1 to {num - 1}", do="publish the version again")


def units(vectors: Floats) -> Floats:
    """Return vectors [n, D] at length 1; one that points nowhere stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
