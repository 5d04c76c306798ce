"""Make ``crds.json`` from CustomResourceDefinitions: python tests/cluster/schemas/refresh.py FILE.yaml … (README.md says where they are from).

What a check does not need is left out (descriptions, status, defaults), what Kubernetes says in words of its own is said in those of JSON Schema, and
a field that a schema does not name is refused: Kubernetes drops it without a word. Parts that occur more than once, as a pod's, are kept once.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).with_name("crds.json")
_KEPT = ("type", "format", "enum", "pattern", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
_OF_SEVERAL = ("oneOf", "anyOf", "allOf")
_LEAST_SHARED_BYTES = 60


def json_schema(node: dict[str, Any], *, closed: bool = True) -> dict[str, Any]:
    """Return a structural schema as JSON Schema."""
    result: dict[str, Any] = {name: node[name] for name in _KEPT if name in node}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": node["pattern"]} if "pattern" in node else {})}
    if node.get("nullable") and "type" in result:
        result["type"] = [result["type"], "null"]
    if "properties" in node:
        result["properties"] = {name: json_schema(child, closed=closed) for name, child in node["properties"].items()}
        if closed and not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            result["additionalProperties"] = False
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = json_schema(node["additionalProperties"], closed=closed)
    if "items" in node:
        result["items"] = json_schema(node["items"], closed=closed)
    for name in _OF_SEVERAL:  # They only narrow what the properties beside them allow.
        if name in node:
            result[name] = [json_schema(child, closed=False) for child in node[name]]
    return result


def resource_schema(definition: dict[str, Any], version: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a version's objects, metadata left open."""
    schema = json_schema(version["schema"]["openAPIV3Schema"])
    schema["properties"].pop("status", None)
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas with what several of them have moved to ``$defs``."""
    times: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, dict):
            times[_text(node)] += 1
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            count(child)

    def replace(node: Any, *, is_schema: bool) -> Any:
        if isinstance(node, list):
            return [replace(child, is_schema=is_schema) for child in node]
        if not isinstance(node, dict):
            return node
        text = _text(node)
        moved = {name: replace(child, is_schema=name != "properties") if isinstance(child, dict | list) else child for name, child in node.items()}
        if not is_schema or "type" not in node or isinstance(node["type"], dict) or times[text] < 2 or len(text) < _LEAST_SHARED_BYTES:
            return moved
        name = hashlib.sha256(text.encode()).hexdigest()[:8]
        parts[name] = moved
        return {"$ref": f"#/$defs/{name}"}

    parts: dict[str, Any] = {}
    count(schemas)
    kinds = {kind: replace(schema, is_schema=True) for kind, schema in schemas.items()}
    return {"kinds": kinds, "$defs": parts}


def _text(node: Any) -> str:
    return json.dumps(node, sort_keys=True)


def main(paths: list[str]) -> None:
    schemas = {}
    for path in paths:
        definition = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["spec"]
        for version in definition["versions"]:
            if version["storage"]:
                schemas[f"{definition['group']}/{version['name']} {definition['names']['kind']}"] = resource_schema(definition, version)
    TARGET.write_text(json.dumps(shared(schemas), sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
