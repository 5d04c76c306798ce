from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamrec.config import LogConfig
from streamrec.errors import RowCountMismatch
from streamrec.log.base import LogReader
from streamrec.log.connect import local_address, open_reader
from streamrec.log.embedded import EmbeddedKafka
from streamrec.log.offsets import OffsetRange
from streamrec.testing.contracts.log import LogUnderTest
from streamrec.testing.contracts.log_dataset import DatasetContract

# Ray Data warns of the defaults of its own settings.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")]


@pytest.fixture
def kafka_datasets(broker: EmbeddedKafka, cfg: LogConfig) -> Iterator[LogReader]:
    reader = open_reader(broker.address, cfg)
    yield reader
    reader.close()


class TestKafkaDatasets(DatasetContract):
    @pytest.fixture
    def log(self, kafka: LogUnderTest) -> LogUnderTest:
        return kafka

    @pytest.fixture
    def datasets(self, kafka_datasets: LogReader) -> LogReader:
        return kafka_datasets


class TestLocalDatasets(DatasetContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> LogUnderTest:
        return LogUnderTest.at(local_address(tmp_path))

    @pytest.fixture
    def datasets(self, tmp_path: Path) -> LogReader:
        return open_reader(local_address(tmp_path), LogConfig())


def test_offsets_that_are_never_delivered_are_an_error_and_not_fewer_rows(kafka: LogUnderTest, broker: EmbeddedKafka, cfg: LogConfig) -> None:
    topic = f"transactions-{uuid.uuid4().hex}"
    kafka.admin.ensure_topic(topic, 1)
    producer = Producer({"bootstrap.servers": broker.address.where, "transactional.id": topic})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"1", b"k", partition=0)
    producer.commit_transaction(20)
    deadline = time.monotonic() + 20
    while kafka.reader.latest(topic) != {0: 2} and time.monotonic() < deadline:
        continue  # the transaction's marker is written after the commit returns
    datasets = open_reader(broker.address, cfg.model_copy(update={"read_timeout_s": 1.0}))
    for reader in (kafka.reader, datasets):
        with pytest.raises(RowCountMismatch, match="gave 1 rows, got no offset 1, allowed exactly 2 rows") as caught:
            reader.read_table([OffsetRange(topic, 0, 0, 2)])
        assert caught.value.facts["first_missing"] == 1
    with pytest.raises(RowCountMismatch, match="gave 1 rows"):
        datasets.read([OffsetRange(topic, 0, 0, 2)])
    datasets.close()
