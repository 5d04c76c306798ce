"""Measure freshness from outside, through HTTP, while events arrive: how soon an event changes answers and models.

    python -m benchmarks.freshness [--quick]

State freshness: from the broker's acknowledgement of an event to the first answer that used it. Model freshness: from the same
acknowledgement to the first moment at which a version that learned from the event answers. Both on the client's monotonic clock, with
`RATE` events a second arriving, evaluation, labels, learning, gate and publication running, two replicas, and the client on the same cores.
The last line is one flat JSON object: state_ms_p50, state_ms_p99, model_s_p50, model_s_p95.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks._common import arguments, facts, finish
from benchmarks._flow import START, prepare, prepare_pure, send, settings, steps, take_teachers
from serve.launch import launch, shutdown
from streamrec.environment import cache_folder
from streamrec.events.datasets import Dataset, load_dataset
from streamrec.events.demo import demo_dataset
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import Session, open_session
from streamrec.testing.measure import Measure

RATE = 2000
WARM_UP = 2000
PROBE_EVERY_S = 0.25
BARS = {"state_ms_p50": "at most 50", "state_ms_p99": "at most 250", "model_s_p50": "at most 2", "model_s_p95": "at most 5"}
# The events of the file last no longer.
LONGEST_S = 44.0


def produce(session: Session, dataset: Dataset, start: int, stop: threading.Event) -> None:
    """Append `RATE` events a second in lots of a twentieth of a second, until told to stop or the file ends."""
    topic, lot, due = session.config.log.events_topic, RATE // 20, time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())) and start + lot <= dataset.events.num_rows:
        send(session.writer, topic, dataset, start, start + lot)
        start, due = start + lot, due + 0.05


def drive(driver: Driver, seconds: float) -> None:
    """Step for so long, as the streaming job does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        driver.step()


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    seconds = 6.0 if options.quick else LONGEST_S
    dataset = load_dataset(demo_dataset(cache_folder()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrec-bench-")))
        prepare_pure(folder / "pure", dataset, 4096)
        take_teachers(folder / "pure", folder / "full")
        said: list[str] = []
        session = stack.enter_context(open_session(settings(folder / "full", "auto", 4096), said.append, num_replicas=2))
        driver = Driver(lambda: session.controller("streamrec-bench"), time.sleep, said.append)
        controller = driver.controller
        prepare(controller, session.reader, session.writer, dataset)
        stack.callback(shutdown)
        url = launch(session.config, session.address, session.state_url, registry_url(session.state_url))
        send(session.writer, session.config.log.events_topic, dataset, START, START + WARM_UP)
        for _ in steps(controller):
            pass
        first = dataset.events.slice(START, 1).to_pylist()[0]
        users = [str(user) for user in dataset.events["user_id"].unique().to_pylist()[:500]]
        measure = Measure(url, users, 20.0, first["event_type"], first["event_time"], PROBE_EVERY_S)
        stop = threading.Event()
        producer = threading.Thread(target=produce, args=(session, dataset, START + WARM_UP, stop))
        producer.start()
        measure.start()
        drive(driver, seconds)
        stop.set()
        producer.join()
        measure.stop()
    found = measure.tally.summary()
    about = facts(
        broker=said[0] if said else "", rate=RATE, seconds=seconds, **{name: found[name] for name in ("num_state", "num_model", "failed", "lost")}
    )
    finish({name: found[name] for name in ("state_ms_p50", "state_ms_p99", "model_s_p50", "model_s_p95")}, about, BARS)


if __name__ == "__main__":
    main()
