"""The page at ``/docs``: every route with its fields and an example, from the OpenAPI document. It needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from unmask.reporting.render import environment
from unmask.storage import JsonDict

_EXAMPLES: dict[str, JsonDict] = {
    "/": {"inputs": "The patient was given {mask}.", "parameters": {"top_k": 5}},
    "/models/{name}": {"inputs": "The patient was given {mask}."},
    "/fill": {"inputs": ["She took ___ twice a day."], "parameters": {"targets": ["aspirin", "morphine"]}},
    "/score": {"inputs": ["He slept well."], "parameters": {"method": "original"}},
    "/explain": {"inputs": "War broke out in April 1861.", "parameters": {"seed": 1}},
    "/v1/embeddings": {"input": ["He slept well."], "normalize": True},
}


def routes_page(document: JsonDict, names: list[str], mask: str) -> str:
    """Return the page as HTML.

    Args:
        document: OpenAPI.
        names: of the models.
        mask: the mask token of the first.
    """
    groups: dict[str, list[JsonDict]] = {tag: [] for tag in ("Hugging Face", "OpenAI", "unmask", "Status")}
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            route = {
                "method": method.upper(),
                "path": path,
                "description": about["description"],
                "fields": [*_fields(about, document)],
                "example": _example(path, mask) if method == "post" else "",
            }
            groups[about["tags"][0]].append(route)
    return (
        environment()
        .get_template("routes.html.j2")
        .render(
            name=", ".join(names),
            kind="Server",
            verdict="Fill masks, score, explain and embed over HTTP.",
            groups=groups,
        )
    )


def _example(path: str, mask: str) -> str:
    body = json.dumps(_EXAMPLES[path], ensure_ascii=False).replace("{mask}", mask)
    return f"curl $URL{path.replace('{name}', 'NAME')} -H 'Content-Type: application/json' \\\n  -d '{body}'"


def _fields(about: JsonDict, document: JsonDict) -> Iterator[dict[str, str]]:
    """Yield the fields of a request, those of ``parameters`` too, with what they take."""
    content = about.get("requestBody", {}).get("content", {})
    for kind in content.values():
        yield from _properties(kind["schema"], document, "")


def _properties(schema: JsonDict, document: JsonDict, prefix: str) -> Iterator[dict[str, str]]:
    schema = _resolved(schema, document)
    required = schema.get("required", [])
    for name, found in schema["properties"].items():
        inner = _resolved(found, document)
        if "properties" in inner:
            yield from _properties(inner, document, f"{prefix}{name}.")
            continue
        kind = _kind(inner, document)
        if name in required:
            kind += ", required"
        elif inner.get("default") is not None:
            kind += f", {json.dumps(inner['default'])} by default"
        yield {"name": prefix + name, "kind": kind, "text": inner.get("description", "")}


def _resolved(schema: JsonDict, document: JsonDict) -> JsonDict:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return dict(document["components"]["schemas"][reference.rsplit("/", 1)[-1]]) | {
        name: value for name, value in schema.items() if name != "$ref"
    }


def _kind(schema: JsonDict, document: JsonDict) -> str:
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        return " or ".join(_kind(one, document) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'], document)}s"
    bounds: list[Any] = [schema.get(name) for name in ("minimum", "maximum")]
    known = " to ".join(f"{bound:,g}" for bound in bounds if bound is not None)
    return f"{schema.get('type', 'any')}{f' ({known})' if known and None not in bounds else ''}"
