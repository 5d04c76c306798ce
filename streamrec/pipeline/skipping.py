"""Go on, on purpose, where the log begins now, when what comes next has left it: after a retention gap, or with a topic that was made anew."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from streamrec.errors import RetentionGap, RowCountMismatch, TopicReplaced
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.given_up import held_of
from streamrec.pipeline.plan import Plan, PlannedRange, version_name
from streamrec.pipeline.quarantined import withdraw_quarantined
from streamrec.pipeline.receipts import withdraw_receipts
from streamrec.pipeline.report import StepReport

logger = logging.getLogger(__name__)


def skip_lost(controller: Controller, say: Callable[[str], None]) -> StepReport | None:
    """Move the state's offsets to the beginning of the log where they lie before it, by a durable plan that books what is lost and commits.

    Plans that an earlier run left behind are executed first as far as the log still has their records; the others are given up: their numbers are
    not used again. What the lake holds of their steps and the log does not is applied from the lake by the new plan; the rest of their rows goes,
    since the log brings it again. From the moment in which the new plan is durable nobody executes those that it gives up, also where the records
    come back. Of a topic that was made anew everything is read, and nobody knows how much of the old one is lost.

    Args:
        controller: Recovered.
        say: Gets a line for each partition that is moved, and each deletion or return that is given up, which is also logged.

    Returns:
        The step that moved the offsets, by a plan of this run or of one that died in here; None when nothing is lost.

    Raises:
        BrokerUnavailable: Nobody answers.
    """
    state, config = controller.state, controller.config
    stored: Plan | None = None
    skipped: StepReport | None = None
    try:
        while (stored := controller.planned()) is not None:
            report = controller.run(stored)
            skipped = skipped if stored.after is None else report
        controller.intake.ends()
    except (RetentionGap, RowCountMismatch, TopicReplaced) as error:
        logger.warning("Skipping what is lost: %s", error)
    if stored is not None:  # It alone knows where partitions began that no commit has read.
        state.offsets = {**{part.partition: part.start for part in stored.ranges}, **state.offsets}
    starts, topic_id = controller.intake.restart_at()
    if not starts:
        return skipped
    held = {} if topic_id is not None else state.offsets
    planned = controller.parts.plans.batches() if controller.parts.plans is not None else []
    batch = max([state.batch, *planned]) + 1
    found = Counter(held_of(controller.parts, state.batch, batch, None if topic_id is not None else starts)["partition"].to_pylist())
    gone = {partition: start - held[partition] if partition in held else 0 for partition, start in starts.items()}
    for partition, start in sorted(starts.items()):
        num_lost = gone[partition] - found[partition]
        of = "of a topic that was made anew, and reads it from there" if topic_id is not None else f"and {num_lost} records are lost"
        of += f"; {found[partition]} come from the lake" if found[partition] else ""
        _tell(f"{config.log.events_topic}[{partition}] goes on at offset {start} instead of {state.offsets.get(partition, 0)} {of}", say)
    _withdraw(controller, say)
    resumed = {**held, **starts}
    ranges = (PlannedRange(topic=config.log.events_topic, partition=partition, start=at, end=at) for partition, at in sorted(resumed.items()))
    return controller.run(
        Plan(
            batch=batch,
            ranges=tuple(ranges),
            now_ms=controller.time.now_ms(),
            seed=(config.seed * 1_000_003 + batch) % 2**31,
            evaluate=False,
            new_passes=config.student.new_passes if found else 0,
            replay_passes=config.student.replay_passes,
            teachers=state.teachers,
            challengers=state.challengers,
            publish=False,
            checkpoint=True,
            live=state.live,  # Those that the steps which were given up had followed, before the log refused them.
            lives={name: line.live for name, line in state.lines.items() if line.live is not None},
            lost=sum(gone.values()),
            topic_id=topic_id,
            after=state.batch,
        )
    )


def _withdraw(controller: Controller, say: Callable[[str], None]) -> None:
    """Withdraw the receipts and records of quarantine of steps that are given up, and tell of live versions that such a step has made."""
    batch = controller.state.batch
    if controller.parts.receipts is not None:
        for event_id in withdraw_receipts(controller.parts.receipts, batch):
            _tell(f"the receipt of deletion {event_id} is withdrawn, its step is given up: ask for it again, unless the log still has it", say)
        for quarantined in withdraw_quarantined(controller.parts.receipts, batch):
            _tell(f"the record of what batch {quarantined} quarantined is withdrawn, its step is given up: what is not lost is learned again", say)
    for version in controller.live().values():
        if version >= version_name(batch + 1):
            _tell(f"{version} learned in a step that is given up, also from what is lost, and is live until a better one takes its place", say)


def _tell(line: str, say: Callable[[str], None]) -> None:
    logger.warning("Skipping what is lost: %s", line)
    say(line)
