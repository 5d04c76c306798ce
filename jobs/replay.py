"""Send an interaction log to the events topic in event-time order, keyed by user.

    python -m jobs.replay --config streamrec.toml --data ratings.csv --broker 127.0.0.1:9092 --speed 600x
    ray job submit --working-dir . -- python -m jobs.replay --config streamrec.toml --data ratings.csv --rate 500

The file is recognised by its content (Online Retail, MovieLens, RecBole, sessions, Taobao, CiteULike); other CSV, JSON lines or Parquet need
``--map user=COLUMN,item=COLUMN,time=COLUMN[,type=COLUMN,value=COLUMN]``. Without ``--data`` MovieLens 100K is brought and sent.

``--speed 600x`` lets ten minutes of event time pass in a second, ``--speed max`` sends as fast as the log takes it, ``--rate N`` sends N events
a second. ``--broker`` is HOST:PORT, ``kafka://HOST:PORT``, ``local:///FOLDER``, ``local``, ``embedded`` or ``auto``; the last three belong to the
run's folder, and an embedded broker stops with this job.

Interrupt it (Ctrl-C or SIGTERM) or kill it, and start it again with the same options: it goes on where it was and sends nothing twice. The
progress is kept in the run's folder or in ``--progress FILE``; ``--restart`` forgets it. ``--max-events N`` stops after the file's first N events,
counting those of earlier runs. ``--with-items`` sends what the file says about items first.

Progress goes to the error output; the last line of the output is a JSON object: dataset, topic, broker, sent, position, stop, done, wall_s,
events_per_s. The exit status is 0 when all is sent, 1 after an error, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import cli, dry_run
from streamrec.cli.replay import INTERRUPTED, send
from streamrec.cli.sending import err_console
from streamrec.config import Config
from streamrec.environment import cache_folder
from streamrec.events.datasets import load_dataset, parse_mapping
from streamrec.events.demo import demo_dataset
from streamrec.events.progress import load_progress
from streamrec.events.replay import Pace
from streamrec.pipeline.replay import default_progress_path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    options = _parser().parse_args(argv)
    return cli.run(lambda: _replay(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="streamrec.toml or .yaml; default: $STREAMREC_CONFIG, then ./streamrec.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, such as log.events_topic=events")
    parser.add_argument("--data", metavar="PATH", help="file or folder; default: MovieLens 100K")
    parser.add_argument("--map", metavar="FIELD=COLUMN,…", help="the columns of a file of another format")
    parser.add_argument("--broker", metavar="ADDRESS", help="default: log.broker of the configuration")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", metavar="600x|max", help="event time per processing time; default: max")
    pace.add_argument("--rate", type=float, metavar="N", help="events per second")
    parser.add_argument("--max-events", type=cli.positive, metavar="N", help="stop after the file's first N events")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="where to keep the progress")
    parser.add_argument("--restart", action="store_true", help="forget the progress")
    parser.add_argument("--until-input-ends", action="store_true", help="stop when the standard input ends, as with whoever started this job")
    parser.add_argument("--with-items", action="store_true", help="send the items first, unless events were sent before")
    cli.add_dry_run(parser)
    return parser


def _told(config: Config, options: argparse.Namespace) -> str:
    """Return which events the options ask for; without a file nothing is brought to look into it."""
    if options.data is None:
        return "MovieLens 100K, which is brought where it is not there yet"
    dataset = load_dataset(options.data, parse_mapping(options.map) if options.map else None)
    progress = None if options.restart else load_progress(options.progress or default_progress_path(config, dataset))
    sent = f", of which {progress.position} were sent" if progress is not None else ""
    total = min(options.max_events or dataset.events.num_rows, dataset.events.num_rows)
    return f"{total} events of {dataset.name}{sent}{', after its items' if options.with_items else ''}"


def _stop_with_input() -> None:
    # Not sys.stdin: a thread that waits in it holds its lock, and Python then aborts when the job ends first.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _replay(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set, options.broker)
    pace = Pace.parse(options.speed, options.rate)
    if options.dry_run:
        return dry_run.show(dry_run.of_replay(config, options.broker, _told(config, options)))
    path = Path(options.data) if options.data else demo_dataset(cache_folder())
    dataset = load_dataset(path, parse_mapping(options.map) if options.map else None)
    if options.until_input_ends:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    choice: dict[str, Any] = {
        "max_events": options.max_events,
        "restart": options.restart,
        "with_items": options.with_items,
        "progress_path": options.progress,
    }
    sent = send(config, dataset, options.broker, pace, err_console(), **choice)
    summary = {
        "dataset": dataset.name,
        "topic": config.log.events_topic,
        "broker": str(sent.address),
        "sent": sent.last.sent,
        "position": sent.last.position,
        "stop": sent.last.stop,
        "done": sent.last.done,
        "wall_s": round(sent.wall_s, 3),
        "events_per_s": round(sent.last.sent / max(sent.wall_s, 1e-9), 1),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    sys.stdout.flush()
    return 0 if sent.last.done else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
