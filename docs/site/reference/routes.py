"""Describe the HTTP interface by the OpenAPI document that a server gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

from reference.markdown import code, plain, table
from serve.access import Access
from serve.cold import ColdRoutes
from serve.guards import Guards
from serve.operations import OPERATIONS, Operation
from streamrec.config.keys import ApiKey
from streamrec.serving.checks import RequestLimits

_INTRODUCTION = """
All routes, with their fields and an example each, as `GET /openapi.json` of a server has them. What they mean, keys, deadlines and the Python
client: [the HTTP interface](../api.md). What a refusal's `code` means and what to do: [codes](../codes.md#refusals-of-the-http-interface).

This page is made from the code; bounds are those of the default configuration.
"""


def openapi() -> dict[str, Any]:
    """Return the document of a server that asks for keys, by the default configuration."""
    nobody = cast("Any", SimpleNamespace(replica_id=""))
    guards = Guards(Access({"somebody": ApiKey(sha256="0" * 64, scopes=("read",))}))
    return ColdRoutes(nobody, RequestLimits(), 262_144, guards, "", lambda scope: "").app.openapi()


def routes_page() -> str:
    """Return the page of all routes."""
    document = openapi()
    lines = ["# Routes and fields", "", _INTRODUCTION.strip(), ""]
    for operation in OPERATIONS:
        lines += _route(operation, document["paths"][operation.path][operation.method.lower()], document["components"]["schemas"])
    return "\n".join(lines)


def _route(operation: Operation, said: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {operation.method} {operation.path}", "", f"{operation.summary}. {plain(said.get('description', ''))}", "")
    scopes = next((scopes for one in said.get("security", ()) for scopes in one.values()), None)
    yield from (f"Scope of the key: {code(scopes[0])}." if scopes else "No key is needed.", "")
    parameters = [(code(part["name"]), part["in"], _type(part["schema"]), plain(part.get("description", ""))) for part in said.get("parameters", ())]
    yield from table(("parameter", "in", "type", "what it is"), parameters)
    body = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        yield from _fields("field of the body", body, schemas)
    yield from ("```sh", _asked(operation), "```", "", "```json", json.dumps(operation.answer, indent=2, ensure_ascii=False), "```", "")
    answer = said["responses"]["200"]["content"]["application/json"]["schema"]
    yield from _fields("field of the answer", answer, schemas)
    refused = [code(status) for status in said["responses"] if status != "200"]
    yield from (f"Refusals: {', '.join(refused)}.", "")


def _fields(head: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    found = _resolved(schema, schemas)
    needed = set(found.get("required", ()))
    rows = [
        (code(name), _type(part), "" if "default" in part or name not in needed else "yes", plain(part.get("description", "")))
        for name, part in found.get("properties", {}).items()
    ]
    return table((head, "type", "always there", "what it is"), rows)


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return cast("Mapping[str, Any]", schemas[name]) if name else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return code(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return " or ".join(code(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below", "maxLength": "up to", "maxItems": "up to"}
    told = [f"{word} {float(schema[name]):.12g}" for name, word in bounds.items() if name in schema]
    return " ".join([str(schema.get("type", "any value")), *told])


def _asked(operation: Operation) -> str:
    path = f"'http://localhost:8000{operation.example_path}'" if "?" in operation.example_path else f"http://localhost:8000{operation.example_path}"
    method = "" if operation.method == ("GET" if operation.body is None else "POST") else f"-X {operation.method} "
    body = "" if operation.body is None else f"-d '{json.dumps(operation.body, ensure_ascii=False)}' "
    return f"curl {method}{body}{path}"
