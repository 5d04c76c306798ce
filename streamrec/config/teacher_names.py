"""Know the names of teachers: those that come with streamrec, and those that installed packages bring."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

GROUP = "streamrec.teachers"
"""The entry point group by which a package brings a teacher."""

VERSIONED = ("transformer", "linear", "text")
"""Refreshed after so many events; `streamrec.teachers.kinds` says how."""

COUNTED = ("repeats", "transitions", "neighbours")
"""Learn with each micro-batch; see `streamrec.teachers.counted`."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
STUDENT, CONTROL, ENSEMBLE = "student", "student_events_only", "ensemble"
"""Names among the metrics of the student, of the one on events alone and of the teachers' mixture."""

_TAKEN = {ENSEMBLE, STUDENT, CONTROL, "chance", "counted", "popular", "recent_popular", "own_history"}
"""Names of other things that metrics and weights are kept under."""


def plugins() -> dict[str, EntryPoint]:
    """Return the teachers that installed packages bring, by name; a name of ours stays ours, and one that could not be a folder is left out."""
    found = entry_points(group=GROUP)
    return {point.name: point for point in found if _NAME.fullmatch(point.name) and point.name not in {*VERSIONED, *COUNTED, *_TAKEN}}


def check_names(names: Iterable[str]) -> None:
    """Look for each name among ours, then among the installed plug-ins.

    Raises:
        ValueError: Neither has it, or two packages bring it.
    """
    others = [name for name in names if name not in {*VERSIONED, *COUNTED}]
    if not others:
        return  # Packages are searched only for who names one.
    found = plugins()
    unknown = [name for name in others if name not in found]
    if unknown:
        msg = f"{', '.join((*VERSIONED, *COUNTED))}, and of installed plug-ins ({GROUP}): {', '.join(sorted(found)) or 'none'}"
        raise ValueError(msg)
    for name in others:
        brought_by = sorted({point.dist.name for point in entry_points(group=GROUP, name=name) if point.dist is not None})
        if len(brought_by) > 1:
            msg = f"a plug-in of one package, and {name} comes from {' and '.join(brought_by)}"
            raise ValueError(msg)
