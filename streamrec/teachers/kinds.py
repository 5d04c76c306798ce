"""Name the kinds of teachers that come in versions: a new one is a file of its own and an entry here, or a package that brings it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import EntryPoint

from streamrec.config import TeachersConfig
from streamrec.config.teacher_names import plugins
from streamrec.errors import OperatorError, RegistryError
from streamrec.state import ComponentState
from streamrec.teachers.linear_version import LINEAR
from streamrec.teachers.plugins import plugin_kind
from streamrec.teachers.protocol import Kind, LoadedTeacher, TeacherClass
from streamrec.teachers.text import TEXT
from streamrec.teachers.transformer import TRANSFORMER

KINDS: Mapping[str, Kind] = {"transformer": TRANSFORMER, "linear": LINEAR, "text": TEXT}
"""Those that come with streamrec, by name."""


def kind_of(name: str) -> Kind:
    """Return the kind that goes by a name, ours or an installed package's.

    Raises:
        RegistryError: There is none.
    """
    if name in KINDS:
        return KINDS[name]
    found = plugins()
    if name not in found:
        what = "Teacher: unknown kind"
        do = "install the package that brings it, or use the release that wrote the version"
        raise RegistryError(what, got=repr(name), allowed=", ".join((*KINDS, *sorted(found))), do=do)
    return plugin_kind(name, partial(_import, found[name]))


def _import(point: EntryPoint) -> TeacherClass:
    try:
        found: TeacherClass = point.load()
    except (ImportError, AttributeError) as error:
        what = f"Teacher: a plug-in can't be imported ({error})"
        raise OperatorError(what, got=repr(point.name), allowed=point.value, do="install its package with what it needs, on every node") from error
    return found


def check_teachers(config: TeachersConfig) -> None:
    """Look whether refreshes of the enabled teachers can be made here.

    Raises:
        ConfigError: A model is not here, or what reads it.
        OperatorError: A package's teacher can't be imported.
    """
    for name in config.refreshed:
        kind_of(name).check(config)


def load_teacher(state: ComponentState) -> LoadedTeacher:
    """Make a scorer of a stored version.

    Raises:
        RegistryError: The version is of a kind that nobody here knows.
    """
    return kind_of(str(state.meta.get("kind"))).load(state)
