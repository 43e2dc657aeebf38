"""The published form of report.json, and a report held against it without a library.

The tests compare the outcome with that of `jsonschema`, and fail if the schema begins to use another keyword.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

KEYWORDS = frozenset(
    {"$ref", "additionalProperties", "anyOf", "const", "enum", "items", "maximum", "minimum", "properties", "required"}
    | {"type", "$schema", "$id", "$defs", "title", "description"}
)

_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def find_fault(value: Any, schema: dict[str, Any]) -> str | None:
    """Return what is wrong with a value, with the place ("incidents[0].step is 'x', not integer"); None if nothing."""
    return next(_faults(value, schema, schema["$defs"], ""), None)


def _faults(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _faults(value, defs[schema["$ref"].removeprefix("#/$defs/")], defs, at)
    if "anyOf" in schema:
        yield from _any_faults(value, schema["anyOf"], defs, at)
    if not _is_of_type(value, schema.get("type")):
        yield f"{at or 'the report'} is {_short(value)}, not {_type_name(schema['type'])}"
        return
    if value not in schema.get("enum", (value,)) or value != schema.get("const", value):
        yield f"{at} is {_short(value)}, which is not allowed"
    if isinstance(value, (int, float)):
        yield from _range_faults(value, schema, at)
    elif isinstance(value, dict):
        yield from _object_faults(value, schema, defs, at)
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _faults(item, schema["items"], defs, f"{at}[{number}]")


def _any_faults(value: Any, choices: list[dict[str, Any]], defs: dict[str, Any], at: str) -> Iterator[str]:
    faults = [next(_faults(value, choice, defs, at), None) for choice in choices]
    if all(faults):
        # The last choice is the one that says what a value looks like where it is not null.
        yield str(faults[-1])


def _range_faults(value: float, schema: dict[str, Any], at: str) -> Iterator[str]:
    if value < schema.get("minimum", value) or value > schema.get("maximum", value):
        yield f"{at} is {value}, out of its range"


def _object_faults(value: dict[str, Any], schema: dict[str, Any], defs: dict[str, Any], at: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{_join(at, key)} is missing"
    for key, item in value.items():
        rule = properties.get(key, schema.get("additionalProperties", {}))
        yield from _faults(item, rule, defs, _join(at, key))


def _is_of_type(value: Any, types: str | list[str] | None) -> bool:
    names = [types] if isinstance(types, str) else types
    if names is None:
        return True
    if isinstance(value, bool):  # a bool is an int in Python, not in JSON
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _type_name(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


NAME = "report.schema.json"


@cache
def _text() -> str:
    return (resources.files(__name__) / NAME).read_text("utf-8")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of report.json."""
    loaded: dict[str, Any] = json.loads(_text())
    return loaded
