"""Derive the JSON Schema (draft 2020-12) of the wire format from the table of fields. Pure.

The schema says what can be said without a configuration. Three rules depend on one and stand in the descriptions: the bytes of an id
(``events.max_id_bytes``), the event types (``events.meanings``) and the far future (``events.future_tolerance_s``). JSON Schema takes 5.0 for
an integer; the codec does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from streamrec.config import FLOAT32_MAX, MAX_NAMESPACE_BYTES, MAX_NAMESPACE_CHARS, MAX_TIME_MS
from streamrec.events.schema import (
    CONTEXT_TYPE,
    FIELD_MEANINGS,
    FIELDS_OF,
    REASONS,
    REJECTED,
    REQUIRED_OF,
    VECTORS_TYPE,
    WIRE,
    WIRE_VERSION,
    Kind,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEAD_LETTER = "dead_letter"
KINDS: tuple[str, ...] = (*Kind, DEAD_LETTER)

_IDS = frozenset(name for required in REQUIRED_OF.values() for name in required if name.endswith("_id"))
_SHAPES: Mapping[pa.DataType, dict[str, Any]] = {
    pa.string(): {"type": "string"},
    pa.float64(): {"type": "number"},
    pa.int64(): {"type": "integer"},
    pa.bool_(): {"type": "boolean"},
    pa.list_(pa.string()): {"type": "array", "items": {"type": "string"}},
    CONTEXT_TYPE: {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    VECTORS_TYPE: {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}},
    },
}
_LETTER_MEANINGS = {
    "topic": "The topic of the rejected record.",
    "partition": "Its partition.",
    "offset": "Its offset; topic/partition/offset is the letter's key.",
    "reason": "Why it was rejected, a code: " + " ".join(f"{reason}: {meaning}" for reason, meaning in REASONS.items()),
    "detail": "What was wrong with this record.",
    "key": "The record's key in base64; null when it had none.",
    "value": "The record's bytes in base64; null when it had none.",
}


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of one of `KINDS`."""
    body = _dead_letter() if kind == DEAD_LETTER else _event(Kind(kind))
    return {"$schema": DIALECT, "$id": f"urn:streamrec:wire:{WIRE_VERSION}:{kind}", **body}


def event_schema() -> dict[str, Any]:
    """Return the schema of any event: one of the kinds."""
    definitions = {str(kind): _event(kind) for kind in Kind}
    return {
        "$schema": DIALECT,
        "$id": f"urn:streamrec:wire:{WIRE_VERSION}:event",
        "title": "event",
        "description": f"A record of the events topic, version {WIRE_VERSION}: one JSON object in UTF-8.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": definitions,
    }


def json_type(name: str) -> str:
    """Return the JSON type of a field in words, as `docs/formats.md` has it."""
    shape = _SHAPES[WIRE.field(name).type]
    if shape["type"] == "array":
        return "list of strings"
    if shape["type"] == "object":
        inner = shape["additionalProperties"]
        return "object of lists of numbers" if inner["type"] == "array" else "object of strings, numbers, booleans"
    return str(shape["type"])


def _event(kind: Kind) -> dict[str, Any]:
    required = set(REQUIRED_OF[kind])
    if kind is not Kind.INTERACTION:
        required.add("kind")
    fields = {"kind", "namespace"} | FIELDS_OF[kind]
    return {
        "title": str(kind),
        "description": f"The event kind {kind} on the wire, version {WIRE_VERSION}. Readers ignore fields that they do not know.",
        "type": "object",
        "properties": {name: _field(name, kind, required=name in required) for name in WIRE.names if name in fields},
        "required": [name for name in WIRE.names if name in required],
        "additionalProperties": True,
    }


def _field(name: str, kind: Kind, *, required: bool) -> dict[str, Any]:
    described = {"description": FIELD_MEANINGS[name]}
    if name == "kind":
        return {**described, "const": str(kind)} if required else {**described, "enum": [str(kind), None]}
    shape = dict(_SHAPES[WIRE.field(name).type])
    if name in _IDS:
        described["description"] += " At most events.max_id_bytes bytes (512 by default)."
        shape["minLength"] = 1
    elif name == "namespace":
        described["description"] += f" At most {MAX_NAMESPACE_BYTES} bytes in UTF-8."
        shape |= {"minLength": 1, "maxLength": MAX_NAMESPACE_CHARS}
    elif name == "event_time":
        described["description"] += " Not later than now plus events.future_tolerance_s (a day by default)."
        shape |= {"minimum": 0, "maximum": MAX_TIME_MS}
    elif name == "items":
        shape["items"] = {"type": "string", "minLength": 1}
    if not required:
        shape["type"] = [shape["type"], "null"]
    return {**described, **shape}


def _dead_letter() -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in REJECTED:
        described = {"description": _LETTER_MEANINGS[field.name]}
        if field.type == pa.binary():
            properties[f"{field.name}_base64"] = {**described, "type": ["string", "null"], "contentEncoding": "base64"}
        elif pa.types.is_integer(field.type):
            properties[field.name] = {**described, "type": "integer", "minimum": 0}
        else:
            properties[field.name] = {**described, "type": "string"}
    properties["reason"]["examples"] = [str(reason) for reason in REASONS]
    properties["part"] = {"description": "Which part of a large record this is, from 0.", "type": "integer", "minimum": 0}
    properties["parts"] = {"description": "How many parts there are; their bytes follow one another.", "type": "integer", "minimum": 1}
    return {
        "title": DEAD_LETTER,
        "description": f"A rejected record in the dead-letter topic, version {WIRE_VERSION}.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": True,
    }
