"""Describe every setting: its type, its default, its bounds, and what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reference.markdown import code, plain, table
from reference.meanings import MEANINGS
from streamrec.config import Config, FurtherStudent, Meaning, parse_duration_s
from streamrec.config.keys import ApiKey

_HEAD = ("setting", "type", "default", "bounds", "what it means")
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "min_length": "length at least", "max_length": "length at most"}
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_MARK = re.compile(r"((?:``\w+``(?:,? and |, ))*``\w+``):\s")
_INTRODUCTION = """
Settings come from `streamrec.toml`, or another TOML or YAML file, then from `--set KEY=VALUE` ([the command line](../cli.md)). Unknown keys are
errors that name the nearest valid one. A duration is written `"10s"`, `"5m"`, `"24h"`, `"7d"`, and shown in seconds. `streamrec config show` prints
every setting with what is in force.

This page is made from the code.
"""


def configuration_page() -> str:
    """Return the page of all settings."""
    lines = ["# Configuration", "", _INTRODUCTION.strip(), ""]
    for path, model in sections():
        name = ".".join(path)
        lines += [f"## {_title(name)}", "", plain(model.__doc__ or ""), "", *table(_HEAD, (row(path, key, model) for key in own(model))), ""]
    return "\n".join(lines)


def sections(model: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Return each section with its path; tables by name have a part in angle brackets, and the file of keys comes last."""
    yield path, model
    for name, field in model.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            yield from sections(field.annotation, (*path, name))
    if model is Config:
        yield ("events", "meanings", "<TYPE>"), Meaning
        yield ("students", "<NAME>"), FurtherStudent
        yield ("<KEY>",), ApiKey


def row(path: tuple[str, ...], name: str, model: type[BaseModel]) -> tuple[str, ...]:
    """Return what there is to say of a setting."""
    field = model.model_fields[name]
    return code(name), _type_of(field), _default_of(field), _bounds_of(field), meaning_of(path, name, model)


def meaning_of(path: tuple[str, ...], name: str, model: type[BaseModel]) -> str:
    """Return what a setting means, from `MEANINGS` or its section's docstring; nothing where neither tells."""
    told = MEANINGS.get(".".join((*path, name)))
    if told is not None:
        return told
    for paragraph in re.split(r"\n\s*\n", model.__doc__ or ""):
        text = " ".join(paragraph.split())
        marks = list(_MARK.finditer(text))
        for at, mark in enumerate(marks):
            if f"``{name}``" in mark[1]:
                return _sentence(text[mark.end() : marks[at + 1].start() if at + 1 < len(marks) else len(text)])
    sentences = re.split(r"(?<=[.;]) ", " ".join((model.__doc__ or "").split()))
    found = [sentence for sentence in sentences if f"``{name}``" in sentence]
    return _sentence(found[0]) if found else ""


def _sentence(text: str) -> str:
    text = plain(text).rstrip(";, ")
    return (text[:1].upper() + text[1:]).rstrip(".") + "."


def _title(name: str) -> str:
    if not name:
        return "At the top"
    return "The file of keys: [NAME]" if name == "<KEY>" else f"[{name.replace('<', '').replace('>', '')}]"


def own(model: type[BaseModel]) -> list[str]:
    """Return the names of a section's settings that are no sections."""
    return [name for name, field in model.model_fields.items() if not _is_section(field)]


def _is_section(field: FieldInfo) -> bool:
    kind = field.annotation
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


def _is_duration(field: FieldInfo) -> bool:
    return any(getattr(part, "func", None) is parse_duration_s for part in field.metadata)


def _type_of(field: FieldInfo) -> str:
    return "duration" if _is_duration(field) else _name_of(field.annotation)


def _name_of(kind: Any) -> str:
    parts, origin = [part for part in get_args(kind) if part not in {type(None), ...}], get_origin(kind)
    if origin is Literal:
        return " or ".join(code(part) for part in parts)
    if origin is tuple:
        return f"list of {_name_of(parts[0])}"
    if origin is dict:
        return "tables by name"
    if parts:  # An annotated type, or one that may be left out.
        return _name_of(parts[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(kind, "value")


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(code(name) for name in value) or "none"
    if _is_duration(field):
        return code(f'"{_duration(value)}"')
    return code(json.dumps(list(value) if isinstance(value, tuple) else value))


def _duration(seconds: float) -> str:
    whole = next((f"{seconds / size:g}{unit}" for unit, size in _UNITS if seconds and not seconds % size), None)
    return whole or f"{seconds:g}s"


def _bounds_of(field: FieldInfo) -> str:
    found = [f"{words} {value:g}" for part in field.metadata for name, words in _BOUNDS.items() if (value := getattr(part, name, None)) is not None]
    found += [f"like {code(pattern)}" for part in field.metadata if (pattern := getattr(part, "pattern", None))]
    return ", ".join(found)
