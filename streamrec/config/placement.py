"""Define what processes ask of Ray's nodes, which says where they run."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from streamrec.config.section import Section

LEAST = 1e-4
"""Ray counts in ten thousandths."""

_BY_OTHER_SETTINGS = {"CPU": "cpus", "GPU": "teachers.use_gpu"}
_MOST_CHARS = 100
_RAYS_OWN = ("TPU", "memory", "object_store_memory")


def _are_custom(values: dict[str, float]) -> dict[str, float]:
    for name, amount in values.items():
        if name in _BY_OTHER_SETTINGS:
            msg = f"{name!r}, which is said by {_BY_OTHER_SETTINGS[name]}"
            raise ValueError(msg)
        if name in _RAYS_OWN or not name.strip() or len(name) > _MOST_CHARS:
            msg = f"{name!r}, allowed a name that nodes are given, as with `ray start --resources`"
            raise ValueError(msg)
        if amount < LEAST:
            msg = f"{name} = {amount:g}, allowed {LEAST:g} or more"
            raise ValueError(msg)
    return values


CustomResources = Annotated[dict[str, float], AfterValidator(_are_custom)]
"""Ray's custom resources, name to amount: a process runs on a node that has them, and takes them."""


class ActorPlacement(Section):
    """Say what each process of a kind takes of the node that it runs on.

    ``cpus``: logical CPUs of each; they isolate nothing. ``resources``: Ray's custom resources, such as ``{ learning = 0.01 }``: it runs on a node
    that was given them, and nowhere else.
    """

    cpus: float = Field(default=0.1, ge=0)
    resources: CustomResources = Field(default_factory=dict)


class RefreshPlacement(ActorPlacement):
    """The same of what carries out one teacher's refreshes: a closed form itself, of a fit its controller; its train workers are another matter.

    ``cpus``: logical CPUs of each. ``resources``: Ray's custom resources. A fit ends with its controller, so this one should be on a node that stays.
    """

    cpus: float = Field(default=0.0, ge=0)


class PlacementConfig(Section):
    """Say where the stream's processes run on a Ray cluster. What train workers take is among the teachers' settings."""

    learners: ActorPlacement = ActorPlacement()
    scorer: ActorPlacement = ActorPlacement()
    linear: ActorPlacement = ActorPlacement()
    refreshes: RefreshPlacement = RefreshPlacement()
