"""Define the settings of teachers, and when they refresh."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from streamrec.config.placement import LEAST, CustomResources
from streamrec.config.section import Duration, Section
from streamrec.config.teacher_names import COUNTED, check_names


class TransformerConfig(Section):
    """Shape and train the sequential transformer.

    A first fit passes ``first_epochs`` times over the window. A refresh passes ``refresh_epochs`` times over what came since the last one and
    each time over as much of what came before. Neither takes more than ``first_steps`` or ``refresh_steps`` steps of about ``batch_events`` events.
    ``item_learning_rate`` is that of item rows, each of which few batches touch, ``learning_rate`` that of all else.
    Up to ``full_softmax_items`` items a step weighs all of them, beyond it those of its batch and ``num_negatives`` others. ``shard_items``:
    each of several workers keeps a share of the item rows. ``checkpoint_steps``: a training that is cut off loses at most so many steps.
    """

    dim: int = Field(default=128, ge=4, le=4096)
    num_layers: int = Field(default=1, ge=1, le=64)
    num_heads: int = Field(default=2, ge=1, le=64)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    sequence_length: int = Field(default=32, ge=2, le=2048)
    batch_events: int = Field(default=1024, ge=1)
    first_epochs: float = Field(default=12, gt=0)
    refresh_epochs: float = Field(default=8, gt=0)
    first_steps: int = Field(default=5000, ge=1)
    refresh_steps: int = Field(default=1000, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    item_learning_rate: float = Field(default=1e-2, gt=0)
    num_negatives: int = Field(default=2048, ge=1)
    full_softmax_items: int = Field(default=4096, ge=1)
    shard_items: bool = False
    checkpoint_steps: int = Field(default=500, ge=1)

    @field_validator("num_heads")
    @classmethod
    def _divides_dim(cls, value: int, info: ValidationInfo) -> int:
        dim = info.data.get("dim")
        if dim is not None and dim % value:
            msg = f"a divisor of dim = {dim}"
            raise ValueError(msg)
        return value


class LinearConfig(Section):
    """Shape the closed-form item-item teacher.

    Its sums over up to ``dense_items`` items are square matrices, and the solve is exact. Beyond that they hold the entries that there are, of each
    of the two matrices ``max_entries`` at most, 12 bytes each, and the solve takes the ``rank`` directions in which histories differ most.
    """

    max_items: int = Field(default=65_536, ge=2, le=2**20)
    dense_items: int = Field(default=4096, ge=2, le=32_768)
    max_entries: int = Field(default=2**24, ge=1024)
    rank: int = Field(default=8, ge=1, le=4096)
    ridge: float = Field(default=300.0, gt=0)
    history_decay: float = Field(default=0.98, gt=0, le=1)


class TransitionsConfig(Section):
    """Bound the sequential rules.

    ``max_partners``: rules that an item keeps, 8 bytes each. ``reach``: an event makes rules with so many items before it. ``way_back``: how much a
    rule counts from the later item to the earlier one. ``num_items``: of a history so many newest items are looked up, each
    ``item_decay`` times the one after it.
    """

    max_partners: int = Field(default=32, ge=1, le=1024)
    reach: int = Field(default=8, ge=1, le=100)
    way_back: float = Field(default=1.0, ge=0, le=1)
    num_items: int = Field(default=5, ge=1, le=100)
    item_decay: float = Field(default=0.65, gt=0, le=1)


class NeighboursConfig(Section):
    """Bound the neighbours, and say how they count.

    ``max_sessions`` of ``session_length`` items are kept, and for each item the last ``sessions_per_item`` that took it. Of a history the
    ``num_items`` newest are looked up; ``num_neighbours`` vote. ``item_fade`` is in items, ``step_fade`` in steps of a session,
    ``age_fade`` in sessions begun since.
    """

    max_sessions: int = Field(default=100_000, ge=1)
    session_length: int = Field(default=12, ge=2, le=256)
    sessions_per_item: int = Field(default=50, ge=1, le=5000)
    num_items: int = Field(default=4, ge=1, le=100)
    num_neighbours: int = Field(default=40, ge=1, le=5000)
    item_fade: float = Field(default=1.5, gt=0)
    step_fade: float = Field(default=4.0, gt=0)
    age_fade: float = Field(default=60_000.0, gt=0)


class TextConfig(Section):
    """Say what reads the items' texts, and bound what is learned from them.

    ``model``: ``words`` hashes words; a folder, or the name of an installed package that carries one, is a language model (extra ``text``).
    ``max_tokens``: a longer text is cut. ``history_decay``: of each place further back. ``max_examples``: a refresh learns from so many next items.
    """

    model: str = Field(default="words", min_length=1)
    max_tokens: int = Field(default=48, ge=4, le=8192)
    history_decay: float = Field(default=0.9, gt=0, le=1)
    max_examples: int = Field(default=50_000, ge=100)


class TeachersConfig(Section):
    """Choose teachers and say when they refresh.

    ``enabled``: ``repeats``, ``transitions`` and ``neighbours`` learn with each micro-batch; ``transformer``, ``linear``, ``text`` and what installed
    packages bring (entry points of ``streamrec.teachers``) are refreshed. ``plugins``: settings of a package's teacher, by its name.

    A refresh begins after ``<teacher>_refresh_events`` interactions at the latest (of a package's teacher: ``plugin_refresh_events``), and at the
    earliest after ``refresh_earliest`` times as many: then where ``refresh_new_items`` (a share of the items) were admitted since, the teacher's
    score fell by ``refresh_drop`` of what it was and by more than chance, or the choice of items moved by ``refresh_drift`` (total variation, 0 to
    1). Where more than ``refresh_lag`` records wait, all these wait for ``refresh_behind`` times the latest number. A version older than
    ``refresh_age_s`` is refreshed once anything is new. ``budget_worker_min_per_day``: what refreshes of all teachers may
    take in any 24 hours, in minutes times workers; 1440 is one worker all day. ``retry_after_s``: wait after a failed refresh, twice as long after
    each further one.
    ``challenge_queries``: so many queries at most are scored by a new version and the one in use before it may label; 0 takes it into use at once.
    ``forget_within_s``: a teacher begins a refresh at the latest so long after a user was deleted, few new events or not, budget or not.

    ``min_train_workers``: a fit begins with as many of ``num_train_workers`` as there is room for, so many at least, and goes on with fewer where a
    node is lost; 0 always takes all. ``gpus_per_worker``: of a worker with ``use_gpu``; a part of a GPU for one worker alone, because no two of one
    fit can share a GPU. ``worker_resources``: Ray's custom resources that each worker takes: it runs on nodes that have them.
    """

    transformer: TransformerConfig = TransformerConfig()
    linear: LinearConfig = LinearConfig()
    text: TextConfig = TextConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    plugins: dict[str, dict[str, Any]] = Field(default_factory=dict)
    enabled: tuple[str, ...] = ("transformer", "linear", "repeats")
    transformer_refresh_events: int = Field(default=12_000, ge=1)
    linear_refresh_events: int = Field(default=8_000, ge=1)
    text_refresh_events: int = Field(default=12_000, ge=1)
    plugin_refresh_events: int = Field(default=12_000, ge=1)
    refresh_earliest: float = Field(default=0.5, gt=0, le=1)
    refresh_new_items: float = Field(default=0.1, ge=0)
    refresh_drop: float = Field(default=0.1, ge=0, lt=1)
    refresh_drift: float = Field(default=0.1, ge=0, le=1)
    refresh_lag: int = Field(default=8192, ge=0)
    refresh_behind: float = Field(default=4.0, ge=1)
    refresh_age_s: Duration = 86_400.0
    budget_worker_min_per_day: float = Field(default=1440.0, gt=0)
    retry_after_s: Duration = 60.0
    challenge_queries: int = Field(default=512, ge=0)
    num_train_workers: int = Field(default=1, ge=1)
    min_train_workers: int = Field(default=0, ge=0)
    use_gpu: bool = False
    gpus_per_worker: float = Field(default=1.0, ge=LEAST)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    worker_resources: CustomResources = Field(default_factory=dict)
    forget_within_s: Duration = 86_400.0
    window_events: int = Field(default=500_000, ge=100)

    @property
    def refreshed(self) -> tuple[str, ...]:
        """Names of the enabled teachers that come in versions."""
        return tuple(name for name in self.enabled if name not in COUNTED)

    @property
    def reads_content(self) -> bool:
        """Whether an enabled teacher may read what items say of themselves."""
        return not {"transformer", "linear"}.issuperset(self.refreshed)

    @field_validator("enabled")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_names(value)
        return value

    @field_validator("num_train_workers")
    @classmethod
    def _all_have_work(cls, value: int, info: ValidationInfo) -> int:
        transformer = info.data.get("transformer")
        if transformer is not None and value * transformer.sequence_length > transformer.batch_events:
            most = max(1, transformer.batch_events // transformer.sequence_length)
            msg = f"at most {most}, transformer.batch_events / sequence_length: each worker gets sequences of every batch"
            raise ValueError(msg)
        return value

    @field_validator("min_train_workers")
    @classmethod
    def _not_above_all(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("num_train_workers")
        if most is not None and value > most:
            msg = f"0 to num_train_workers = {most}"
            raise ValueError(msg)
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _is_whole_or_a_part(cls, value: float, info: ValidationInfo) -> float:
        num_workers = info.data.get("num_train_workers", 1)
        if value > 1 and not value.is_integer():
            msg = "a whole number, or a part of one GPU"
            raise ValueError(msg)
        if value < 1 < num_workers:
            msg = f"1 or more with num_train_workers = {num_workers}: workers of one fit can't share a GPU"
            raise ValueError(msg)
        return value
