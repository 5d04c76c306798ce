from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from streamrec.errors import BrokerError, ConfigError, RetentionGap, RowCountMismatch
from streamrec.log.base import LogAddress
from streamrec.log.connect import kafka_address, local_address, memory_address, open_reader
from streamrec.log.offsets import OffsetRange, check_ranges
from streamrec.log.rows import NO_ROWS, consecutive_rows, exactly
from streamrec.log.topics import checked_topic, murmur2, partition_of


@pytest.mark.parametrize("bounds", [(0, -1), (-1, 0), (5, 4)])
def test_a_range_that_is_none_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(BrokerError, match="not a range"):
        OffsetRange("t", 0, *bounds)


def test_a_range_says_what_it_is() -> None:
    part = OffsetRange("t", 3, 5, 9)
    assert (str(part), part.num_offsets) == ("t[3] offsets [5, 9)", 4)
    assert pickle.loads(pickle.dumps(part)) == part


def test_checking_names_the_first_thing_that_is_wrong() -> None:
    bounds = {("t", 0): (10, 20), ("t", 1): (0, 0)}
    check_ranges([OffsetRange("t", 0, 10, 20), OffsetRange("t", 1, 0, 0)], bounds)
    check_ranges([OffsetRange("t", 0, 3, 3)], bounds)  # nothing is wanted of what is gone
    with pytest.raises(RetentionGap, match="got offset 9, allowed 10 or later"):
        check_ranges([OffsetRange("t", 0, 9, 11)], bounds)
    with pytest.raises(RowCountMismatch, match="ends at offset 20"):
        check_ranges([OffsetRange("t", 0, 10, 21)], bounds)
    with pytest.raises(BrokerError, match=r"t\[2\] does not exist.*\[0, 1\]"):
        check_ranges([OffsetRange("t", 2, 0, 0)], bounds)


def test_rows_are_put_into_the_order_of_the_plan() -> None:
    rows = [consecutive_rows("t", partition, start, [0], [b"k"], [b"%d" % start]) for partition, start in ((1, 4), (0, 7), (1, 3), (0, 8))]
    planned = exactly([OffsetRange("t", 1, 3, 5), OffsetRange("t", 2, 0, 0), OffsetRange("t", 0, 7, 9)], pa.concat_tables(rows))
    assert planned["value"].to_pylist() == [b"3", b"4", b"7", b"8"]
    assert exactly([], NO_ROWS).equals(NO_ROWS)


@pytest.mark.parametrize(("there", "said"), [([3, 5], "no offset 4"), ([3, 4], "no offset 5"), ([], "no offset 3"), ([3, 4, 4, 5], "repeated")])
def test_rows_that_are_missing_or_repeated_are_named(there: list[int], said: str) -> None:
    rows = pa.concat_tables([NO_ROWS, *(consecutive_rows("t", 0, offset, [0], [None], [b""]) for offset in there)])
    with pytest.raises(RowCountMismatch, match=rf"t\[0\] offsets \[3, 6\) gave {len(there)} rows.*{said}.*exactly 3 rows"):
        exactly([OffsetRange("t", 0, 3, 6)], rows)


# From Kafka's own UtilsTest.testMurmur2, there as signed numbers.
@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_are_hashed_as_kafka_does(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32
    assert partition_of(key, 7) == (signed % 2**31) % 7


def test_the_name_of_a_topic_names_a_folder_too() -> None:
    assert checked_topic("streamrec.dead-letters_1") == "streamrec.dead-letters_1"
    for bad in ("", ".", "..", "a/b", "a b", "a\n", "x" * 201):
        with pytest.raises(BrokerError, match="not the name of a topic"):
            checked_topic(bad)


@pytest.mark.parametrize("address", [kafka_address("127.0.0.1:9092,[::1]:9093"), local_address("relative/folder"), memory_address("a")])
def test_an_address_travels_as_a_string_and_in_a_pickle(address: LogAddress) -> None:
    assert LogAddress.parse(str(address)) == address
    assert pickle.loads(pickle.dumps(address)) == address


@pytest.mark.parametrize("text", ["", "kafka://", "local://relative", "s3://bucket", "127.0.0.1:9092"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        LogAddress.parse(text)


@pytest.mark.parametrize("servers", ["", "localhost", "localhost:", ":9092", "localhost:0", "localhost:99999", "localhost:kafka", "a:1,b"])
def test_what_is_no_server_is_refused(servers: str) -> None:
    with pytest.raises(ConfigError, match=r"not an address.*HOST:PORT"):
        kafka_address(servers)


def test_ray_is_not_asked_to_read_this_process_memory() -> None:
    with pytest.raises(ConfigError, match="memory of one process"):
        open_reader(memory_address("a"), None)  # type: ignore[arg-type]  # not looked at
