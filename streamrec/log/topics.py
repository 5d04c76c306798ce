"""Choose the partition of a key as Kafka's default partitioner does, so that a key has the same partition in every log. Pure.

References: MurmurHash2 (Appleby, 2008) with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
"""

from __future__ import annotations

import re
import struct

from streamrec.errors import BrokerError

KAFKA_PARTITIONER = "murmur2_random"
"""librdkafka's name for this choice of partition; its own default hashes otherwise."""

_SEED = 0x9747B28C
_MIX = 0x5BD1E995
_MASK = 0xFFFFFFFF
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}")


def murmur2(key: bytes) -> int:
    """Return the 32-bit MurmurHash2 of a key, unsigned.

    Example:
        >>> hex(murmur2(b"abc"))
        '0x1c94221b'
    """
    length = len(key)
    value = (_SEED ^ length) & _MASK
    num_words = length // 4
    for word in struct.unpack_from(f"<{num_words}I", key):
        mixed = (word * _MIX) & _MASK
        mixed ^= mixed >> 24
        value = ((value * _MIX) & _MASK) ^ ((mixed * _MIX) & _MASK)
    rest = key[num_words * 4 :]
    if rest:
        value = ((value ^ int.from_bytes(rest, "little")) * _MIX) & _MASK
    value = ((value ^ (value >> 13)) * _MIX) & _MASK
    return value ^ (value >> 15)


def partition_of(key: bytes, num_partitions: int) -> int:
    """Return the partition of a key.

    Example:
        >>> [partition_of(key, 4) for key in (b"user-0", b"user-1")]
        [3, 0]
    """
    return (murmur2(key) & 0x7FFFFFFF) % num_partitions


def checked_topic(topic: str) -> str:
    """Return the name of a topic if every log can hold it.

    Raises:
        BrokerError: It can't; the name of a topic also names a folder.
    """
    if _NAME.fullmatch(topic) is None or topic in {".", ".."}:
        what = "Log: not the name of a topic"
        raise BrokerError(what, got=repr(topic), allowed="1 to 200 of a-z A-Z 0-9 . _ -", do="rename the topic")
    return topic
