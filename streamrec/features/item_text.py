"""Hash title words into a fixed number of buckets, so that an item nobody has touched has a place.

References: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009, arXiv:0902.2206.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


def hash_words(texts: Iterable[str], words_per_item: int, num_buckets: int) -> NDArray[np.int32]:
    """Return bucket numbers of each text's first distinct words.

    Args:
        texts: Titles, categories and the like, joined by spaces.
        words_per_item: W, at most so many words are kept.
        num_buckets: Buckets are 0 … num_buckets - 1.

    Returns:
        Buckets padded with -1. [num_texts, W] int32

    Example:
        >>> hash_words(["Toy Story", "story toy"], 3, 1000).tolist()[0][2]
        -1
    """
    rows = []
    for text in texts:
        words = dict.fromkeys(_WORD.findall(text.lower()))
        buckets = [zlib.crc32(word.encode("utf-8", "surrogatepass")) % num_buckets for word in list(words)[:words_per_item]]
        rows.append(buckets + [-1] * (words_per_item - len(buckets)))
    return np.asarray(rows, np.int32).reshape(len(rows), words_per_item)
