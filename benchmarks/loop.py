"""Measure events a second through the whole micro-batch, beside the same functions called without Ray and Kafka, and each stage's share.

    python -m benchmarks.loop [--quick]

Both contestants bootstrap on the first events, get the same two teachers, and then take the same micro-batches in turn: evaluation of student,
control and baselines, soft labels of two teachers, one new and one replay pass of student and control, publication, gate and checkpoint.
``full`` reads a real log through Ray Data and keeps student, control, scorer and statistics in actors; ``pure`` has it all in one process.
The last line is one flat JSON object: events_per_s, ratio_to_pure, share_<stage> (of the full loop's time).
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks._common import arguments, facts, finish
from benchmarks._flow import START, prepare, prepare_pure, send, settings, steps, take_teachers
from streamrec.config import cache_folder
from streamrec.events.datasets import load_dataset
from streamrec.events.demo import demo_dataset
from streamrec.pipeline.report import STAGES
from streamrec.pipeline.session import open_session

BATCH = 4096
BARS = {"events_per_s": "at least 2,000 on 2 cores"}


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # As in the actors.
    num_batches = 3 if options.quick else 12
    dataset = load_dataset(demo_dataset(cache_folder()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrec-bench-")))
        pure, log = prepare_pure(folder / "pure", dataset, BATCH)
        take_teachers(folder / "pure", folder / "full")
        said: list[str] = []
        config = settings(folder / "full", "auto", BATCH)
        session = stack.enter_context(open_session(config, said.append))
        full = session.controller("streamrec-bench")
        prepare(full, session.reader, session.writer, dataset)
        rates: dict[str, list[float]] = {"pure": [], "full": []}
        shares = dict.fromkeys(STAGES, 0.0)
        total = 0.0
        position = START
        for number in range(num_batches + 1):
            for name, controller, writer in (("pure", pure, log), ("full", full, session.writer)):
                send(writer, config.log.events_topic, dataset, position, position + BATCH)
                for report, seconds in steps(controller):
                    if number == 0:  # The first batch warms up.
                        continue
                    rates[name].append(report.plan.num_records / seconds)
                    if name == "full":
                        total += seconds
                        shares = {stage: shares[stage] + report.seconds[stage] for stage in STAGES}
            position += BATCH
        fast, slow = statistics.median(rates["pure"]), statistics.median(rates["full"])
    result: dict[str, float | int | None] = {"events_per_s": slow, "ratio_to_pure": slow / fast}
    result |= {f"share_{stage}": value / total for stage, value in shares.items()}
    finish(result, facts(broker=said[0] if said else "", batch=BATCH, batches=num_batches, pure_events_per_s=round(fast)), BARS)


if __name__ == "__main__":
    sys.exit(main())
