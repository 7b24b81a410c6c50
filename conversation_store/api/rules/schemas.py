"""What of JSON Schema can be enforced, in a format or a strict tool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_NOT: Final = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
        "uniqueItems",
    }
)
_MANY: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "allOf")


def schema_faults(schema: Any, path: str = "") -> Iterator[tuple[str, str, bool]]:
    """
    Find what cannot be enforced: where, why, and whether that is certain.

    Source: Messages API documentation, Structured outputs, 2026-08.
    """
    if not isinstance(schema, Mapping):
        yield path, "Input should be a valid dictionary", not path
        return
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield path, "For 'object' type, 'additionalProperties' must be explicitly set to false", True
    for key in schema.keys() & _NOT:
        yield f"{path}.{key}", f"property '{key}' is not supported", False
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        yield f"{path}.$ref", "external $ref is not supported", False
    for key in _MANY:
        inner = schema.get(key)
        for name, each in inner.items() if isinstance(inner, Mapping) else ():
            yield from schema_faults(each, f"{path}.{key}.{name}")
    for key in _LISTS:
        inner = schema.get(key)
        for n, each in enumerate(inner) if isinstance(inner, list) else ():
            yield from schema_faults(each, f"{path}.{key}.{n}")
    if isinstance(schema.get("items"), Mapping):
        yield from schema_faults(schema["items"], f"{path}.items")
