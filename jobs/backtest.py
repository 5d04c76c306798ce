"""Play a file through the stream's own controller and learner, and say what each model would have recommended.

    python -m jobs.backtest --data ratings.csv --protocol progressive
    ray job submit --working-dir . -- python -m jobs.backtest --config streamrec.toml --data /shared/ratings.csv

As ``streamrec backtest --json`` does: a line per step goes to the error output, a JSON object per block to the output, and the last line has all
figures. It runs in this process, keeps nothing and sends nothing: started again it gives the same. The exit status is 0, 1 after an error, 130 after
a signal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import cli, dry_run
from streamrec.cli import backtest
from streamrec.cli.options import Backtest, Settings
from streamrec.cli.show_config import resolve_only
from streamrec.config.teacher_names import CONTROL, STUDENT
from streamrec.evaluation.protocols import check_protocol
from streamrec.events.datasets import load_dataset, parse_mapping


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.backtest")
    parser.add_argument("--data", type=Path, required=True, help="an interaction log, or a folder that holds one")
    parser.add_argument("--map", metavar="FIELD=COLUMN,…", help="the columns of a file of another format")
    parser.add_argument("--protocol", default="progressive", help="progressive, sessions, leave-one-out or static; default: progressive")
    parser.add_argument("--max-blocks", type=int, metavar="N", help="stop after so many test blocks")
    options = parser.parse_args(argv)
    return cli.run(lambda: _backtest(options))


def _backtest(options: argparse.Namespace) -> int:
    settings = Settings(Path(options.config) if options.config else None, tuple(options.set))
    cli.end_on_signals()
    if options.dry_run:
        check_protocol(options.protocol)
        config = resolve_only(settings)
        dataset = load_dataset(options.data, parse_mapping(options.map) if options.map else None)
        models = ", ".join([STUDENT, *([CONTROL] * config.student.control), *config.teachers.enabled])
        step = f"it would play {dataset.events.num_rows} events of {dataset.name} by the protocol {options.protocol}, with {models}, in this process"
        return dry_run.show(dry_run.DryRun("backtest", (step,)))
    return backtest.run(Backtest(settings, options.data, options.protocol, json=True, mapping=options.map, max_blocks=options.max_blocks))


if __name__ == "__main__":
    sys.exit(main())
