"""Recommend for all users, or for listed ones, into a folder of Parquet files, through Ray Data.

    python -m jobs.recommend_batch --config streamrec.toml --out recommendations/2026-11-27
    python -m jobs.recommend_batch --config streamrec.toml --users users.txt -n 20 --out s3://shop/recommendations/monday
    ray job submit --working-dir . -- python -m jobs.recommend_batch --config streamrec.toml --out /shared/recommendations/monday

All users are those with a history in the newest commit; ``--users`` names a file with an id a line. Each gets what ``POST /v1/recommend`` answers
by the same version with that history: a row with the items and their scores, where the answer comes from, and the version. A server that
explores (``serving.explore_share``) draws some places by chance; here none is drawn.

The output is whole when ``_SUCCESS`` is there. A job that was killed or stopped is started again with the same words: it takes the version
that it began with, whatever is live by now, and makes the parts that are missing, with histories as of then; a part says the offsets that its
histories go up to. With the same words a finished output is left alone. Other words for the same folder are refused.

On a cluster ``--out`` must be a folder that all nodes reach, or a bucket. SIGTERM and Ctrl-C end the job; what is finished stays. A line per
part goes to the error output; the last line of the output is one JSON object. The exit status is 0, 1 after an error, 2 when no version is
live, 130 after a signal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import ray

from jobs import cli, dry_run
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.errors import ConfigError, ResourcesShort
from streamrec.pipeline.batch import PART_USERS, BatchPlan, PartMaker, Wish, begun, finish, is_done, missing_parts, read_plan
from streamrec.pipeline.cluster import cluster_resources, ray_cluster
from streamrec.pipeline.places import misplacement
from streamrec.pipeline.session import has_commits, state_address
from streamrec.storage import Storage, open_storage


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.recommend_batch")
    parser.add_argument("--out", default="recommendations", metavar="ADDRESS", help="a folder, s3://… or gs://…; default: recommendations")
    parser.add_argument("-n", type=cli.positive, default=10, help="how many items; default: 10")
    parser.add_argument("--users", type=Path, metavar="FILE", help="only these users, an id a line; default: all with a history")
    parser.add_argument("--with-seen", action="store_true", help="also items that the user had")
    parser.add_argument("--namespace", metavar="NS", help="the users'; default: events.namespace")
    parser.add_argument("--student", default="default", metavar="NAME", help="a further student of the configuration")
    parser.add_argument("--version", metavar="VERSION", help="ask this one; default: the live one")
    parser.add_argument("--workers", type=cli.positive, default=1, help="so many actors answer, a CPU each; default: 1")
    parser.add_argument("--part-users", type=cli.positive, default=PART_USERS, metavar="N", help=f"users of a part; default: {PART_USERS}")
    options = parser.parse_args(argv)
    return cli.run(lambda: _recommend(options))


def _recommend(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    if (wrong := misplacement("--out", options.out)) is not None:
        raise wrong
    # Workers have other working folders.
    config = config.model_copy(update={"state": state_address(config)})
    out = open_storage(options.out if "://" in options.out else str(Path(options.out).absolute()))
    wish = Wish(options.student, options.version, options.namespace, options.n, options.with_seen, _listed(options.users))
    if not has_commits(config):
        cli.say(f"Recommendations: {cli.not_live(config)}")
        return 2
    if options.dry_run:
        return dry_run.show(_plan(config, wish, out, options))
    cli.end_on_signals()
    plan, num_made = begun(config, wish, out, options.part_users), 0
    if is_done(out):
        cli.say(f"{out.address} is whole already: {plan.num_users} users by {plan.version}")
    else:
        num_made = _make(config, plan, out, options.workers)
        finish(plan, out)
    facts = {"out": out.address, "version": plan.version, "users": plan.num_users, "parts": plan.num_parts, "parts_made": num_made}
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def _listed(path: Path | None) -> tuple[str, ...] | None:
    """Return the ids that a file names."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"Recommendations: {path} can't be read ({error})"
        raise ConfigError(what, do="give a file with a user's id a line") from error
    return tuple(line for line in lines if line)


def _make(config: Config, plan: BatchPlan, out: Storage, num_workers: int) -> int:
    """Make what is missing, and return how many parts that was."""
    parts, clock = missing_parts(plan, out), SystemClock()
    began_s, num_users = clock.monotonic_s(), 0
    cli.say(f"{plan.num_users} users by {plan.version}: {len(parts)} of {plan.num_parts} parts are missing in {out.address}")
    if not parts:
        return 0
    with ray_cluster():
        num_workers = min(num_workers, len(parts))
        _check_fits(num_workers)
        asked = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        made = asked.map_batches(
            PartMaker,
            fn_constructor_args=(config, out.address, plan),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_cpus=1,
        )
        for done, row in enumerate(made.iter_rows(), start=1):
            num_users += int(row["users"])
            rate = num_users / max(1e-9, clock.monotonic_s() - began_s)
            cli.say(f"part {plan.key(int(row['part']))} is there, {done} of {len(parts)}, {rate:.0f} users/s")
    return len(parts)


def _check_fits(num_workers: int) -> None:
    """Raise where workers would wait for CPUs for ever."""
    have, needs = cluster_resources(), dry_run.batch_needs(num_workers)
    if have.cpus < needs.cpus:
        what, do = "Resources: the workers do not fit this Ray cluster", "lower --workers, or add a node"
        raise ResourcesShort(what, got=f"{have.cpus:g} CPUs", allowed=f"{needs.cpus:g} or more", do=do, remedy=do)


def _plan(config: Config, wish: Wish, out: Storage, options: argparse.Namespace) -> dry_run.DryRun:
    """Return what would be done; nothing is written."""
    held = read_plan(out)
    if held is None:
        users = "all users with a history" if wish.users is None else f"{len(wish.users)} users"
        steps = (f"it would recommend {wish.n} items to {users} of {config.state} by {wish.version or 'the live version'}, into {out.address}",)
    elif is_done(out):
        return dry_run.DryRun("recommend_batch", (f"{out.address} is whole already: {held.num_users} users by {held.version}",))
    else:
        begun(config, wish, out)  # Held against what is there; it writes nothing where there is a plan.
        missing = len(missing_parts(held, out))
        steps = (f"it would go on with {held.num_users} users by {held.version}: {missing} of {held.num_parts} parts are missing in {out.address}",)
    return dry_run.DryRun("recommend_batch", steps, dry_run.batch_needs(options.workers))


if __name__ == "__main__":
    sys.exit(main())
