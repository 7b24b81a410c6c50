"""
Rules of the tools of a request, and of which may be chosen.

To add a rule: write a generator of an ``Asked``, cite its source, and name it in ``OF_THE_TOOLS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from conversation_store.api.rules.asked import Asked
from conversation_store.api.rules.blocks import EXTRA, REQUIRED, marker_faults
from conversation_store.api.rules.findings import Finding, error, warning
from conversation_store.api.rules.schemas import schema_faults
from conversation_store.api.rules.settings import part_of, said

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+\Z")
_LONGEST_NAME: Final = 128
_DOCUMENTED_NAME: Final = 64
_MOST_STRICT: Final = 20
_CHOICES: Final = {
    "auto": {"type", "disable_parallel_tool_use"},
    "any": {"type", "disable_parallel_tool_use"},
    "tool": {"type", "name", "disable_parallel_tool_use"},
    "none": {"type"},
}
_NAMES: Final = {
    "bash_": "bash",
    "text_editor_20241022": "str_replace_editor",
    "text_editor_20250124": "str_replace_editor",
    "text_editor_": "str_replace_based_edit_tool",
    "memory_": "memory",
    "computer_20": "computer",
    "web_search_": "web_search",
    "web_fetch_": "web_fetch",
    "code_execution_": "code_execution",
    "tool_search_tool_regex": "tool_search_tool_regex",
    "tool_search_tool_bm25": "tool_search_tool_bm25",
    "advisor_": "advisor",
}
"""What a tool of the API's is called, by how its type begins."""
_CUSTOM: Final = frozenset(
    {
        "type",
        "name",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "allowed_callers",
        "input_examples",
        "eager_input_streaming",
    }
)
_BETAS: Final[Mapping[str, tuple[str, ...]]] = {
    "computer_20": ("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24"),
    "advisor_": ("advisor-tool-2026-03-01",),
    "mcp_toolset": ("mcp-client-2025-11-20", "mcp-client-2026-09-15"),
}
_TOOLSETS: Final = ("computer_toolset_", "browser_toolset_")


def given(asked: Asked) -> list[tuple[int, Mapping[str, Any]]]:
    """Give the tools that are objects, each with its place."""
    tools = asked.params.get("tools")
    return [(n, each) for n, each in enumerate(tools) if isinstance(each, Mapping)] if isinstance(tools, list) else []


def is_custom(tool: Mapping[str, Any]) -> bool:
    """Tell whether a tool is the caller's own."""
    return tool.get("type") in (None, "custom")


def _path(n: int, tool: Mapping[str, Any], rest: str) -> str:
    return f"tools.{n}.{'custom' if is_custom(tool) else tool['type']}.{rest}"


def tools_listed(asked: Asked) -> Iterator[Finding]:
    """Tools are a list of objects. Source: Messages API documentation, Tool reference, 2026-08."""
    tools = asked.params.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        yield error("tools", "Input should be a valid list")
        return
    for n, each in enumerate(tools):
        if not isinstance(each, Mapping):
            yield error(f"tools.{n}", "Input should be a valid dictionary")


def custom_tool_keys(asked: Asked) -> Iterator[Finding]:
    """A tool of the caller's has a name, a schema and known keys. Source: Tool reference, 2026-08."""
    for n, tool in given(asked):
        if is_custom(tool):
            for key in ("name", "input_schema"):
                if key not in tool:
                    yield error(_path(n, tool, key), REQUIRED)
            for key in tool.keys() - _CUSTOM:
                yield error(_path(n, tool, key), EXTRA)


def tool_schema(asked: Asked) -> Iterator[Finding]:
    """A tool's input is an object. Source: Messages API documentation, Tool reference, 2026-08."""
    for n, tool in given(asked):
        if is_custom(tool) and "input_schema" in tool:
            schema, path = tool["input_schema"], _path(n, tool, "input_schema")
            if not isinstance(schema, Mapping):
                yield error(path, "Input should be a valid dictionary")
            elif "type" not in schema:
                yield error(f"{path}.type", REQUIRED)
            elif schema["type"] != "object":
                yield error(f"{path}.type", "Input should be 'object'")


def tool_name(asked: Asked) -> Iterator[Finding]:
    """
    A tool's name is of 1 to 128 letters, digits, _ and -.

    Source: Messages API, error texts of 2025 and 2026-09.
    """
    for n, tool in given(asked):
        name = tool.get("name")
        if not is_custom(tool) or "name" not in tool:
            continue
        path = _path(n, tool, "name")
        if not isinstance(name, str):
            yield error(path, "Input should be a valid string")
        elif len(name) > _LONGEST_NAME:
            yield error(path, f"String should have at most {_LONGEST_NAME} characters")
        elif not _NAME.match(name):
            yield error(path, "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")


def tool_name_documented(asked: Asked) -> Iterator[Finding]:
    """A tool's name has at most 64 characters, says the documentation. Source: Tool reference, 2026-08."""
    for n, tool in given(asked):
        if is_custom(tool) and _DOCUMENTED_NAME < len(str(tool.get("name"))) <= _LONGEST_NAME:
            message = f"more than the {_DOCUMENTED_NAME} characters that are documented"
            yield warning(_path(n, tool, "name"), message)


def builtin_name(asked: Asked) -> Iterator[Finding]:
    """A tool of the API's has the name of its kind. Source: Messages API documentation, Tool reference, 2026-08."""
    for n, tool in given(asked):
        kind = tool.get("type")
        name = next((name for start, name in _NAMES.items() if isinstance(kind, str) and kind.startswith(start)), None)
        if name is None or kind.startswith(_TOOLSETS):  # type: ignore[union-attr]
            continue
        if "name" not in tool:
            yield error(_path(n, tool, "name"), REQUIRED)
        elif tool["name"] != name:
            yield error(_path(n, tool, "name"), f"Input should be '{name}'")


def toolset_keys(asked: Asked) -> Iterator[Finding]:
    """A toolset has no name; it has configs and a marker. Source: Computer and browser toolsets, 2026-10."""
    for n, tool in given(asked):
        if isinstance(tool.get("type"), str) and tool["type"].startswith(_TOOLSETS):
            for key in tool.keys() - {"type", "configs", "cache_control"}:
                yield error(_path(n, tool, key), EXTRA)


def tool_names_unique(asked: Asked) -> Iterator[Finding]:
    """No two tools have one name. Source: Messages API, error text; Tool reference, 2026-08."""
    names = [str(tool["name"]) for _, tool in given(asked) if "name" in tool]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield error("tools", f"Tool names must be unique: {', '.join(twice)}")


def tool_markers(asked: Asked) -> Iterator[Finding]:
    """A tool's cache marker looks like any other. Source: Messages API documentation, Prompt caching, 2026-10."""
    for n, tool in given(asked):
        if tool.get("cache_control") is not None:
            for rest, message in marker_faults(tool["cache_control"]):
                yield error(_path(n, tool, f"cache_control{rest}"), message)


def domains(asked: Asked) -> Iterator[Finding]:
    """Domains are allowed or blocked, not both. Source: Messages API documentation, Web search, 2026-08."""
    for n, tool in given(asked):
        if tool.get("allowed_domains") and tool.get("blocked_domains"):
            yield error(f"tools.{n}", "only one of allowed_domains and blocked_domains may be given")


def strict_tools(asked: Asked) -> Iterator[Finding]:
    """
    Strict tools are few, and their schemas of the subset that can be enforced.

    Source: Messages API documentation, Strict tool use, 2026-08.
    """
    strict = [(n, tool) for n, tool in given(asked) if tool.get("strict") is True]
    if len(strict) > _MOST_STRICT:
        yield warning("tools", f"{len(strict)} strict tools; at most {_MOST_STRICT} are allowed")
    for n, tool in strict:
        if is_custom(tool):
            for rest, message, _ in schema_faults(tool.get("input_schema", {})):
                yield warning(_path(n, tool, f"input_schema{rest}"), message)


def computer_tools(asked: Asked) -> Iterator[Finding]:
    """Newer models take the computer toolset alone. Source: Computer use, 2026-10."""
    for n, tool in given(asked):
        single = str(tool.get("type")).startswith("computer_20")
        if single and asked.model is not None and not asked.model.computer_single_tool:
            certain = "computer_single_tool" not in asked.model.uncertain
            yield said(certain, f"tools.{n}", f"'{tool['type']}' is not supported for this model: use the toolset")


def deferred(asked: Asked) -> Iterator[Finding]:
    """
    Where tools are searched for, one at least is loaded from the start, and the search itself is.

    Source: Messages API documentation, Tool search, 2026-08.
    """
    tools = given(asked)
    for n, tool in tools:
        if str(tool.get("type")).startswith("tool_search_tool_") and tool.get("defer_loading"):
            yield warning(f"tools.{n}", "a tool search is never deferred")
    if tools and all(tool.get("defer_loading") for _, tool in tools):
        yield warning("tools", "at least one tool must be loaded from the start")


def toolset_server(asked: Asked) -> Iterator[Finding]:
    """An MCP toolset names a server that is given. Source: Messages API documentation, MCP connector, 2026-11."""
    servers = asked.params.get("mcp_servers")
    names = [each.get("name") for each in servers if isinstance(each, Mapping)] if isinstance(servers, list) else []
    for n, tool in given(asked):
        if tool.get("type") != "mcp_toolset":
            continue
        if "mcp_server_name" not in tool:
            yield error(_path(n, tool, "mcp_server_name"), REQUIRED)
        elif tool["mcp_server_name"] not in names:
            message = f"no server {tool['mcp_server_name']!r} in mcp_servers"
            yield warning(_path(n, tool, "mcp_server_name"), message)


def tool_betas(asked: Asked) -> Iterator[Finding]:
    """Some tools need a beta. Source: Tool reference, 2026-08; that each is refused without it is inferred."""
    for n, tool in given(asked):
        for start, betas in _BETAS.items():
            if str(tool.get("type")).startswith(start) and not asked.has(betas):
                yield warning(f"tools.{n}", f"needs one of the betas {', '.join(betas)}")


def tool_choice_shape(asked: Asked) -> Iterator[Finding]:
    """The choice is auto, any, one tool or none. Source: Messages API documentation, Tool use, 2026-10."""
    choice = asked.params.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if not isinstance(kind, str) or kind not in _CHOICES:
        yield error("tool_choice", f"Input tag '{kind}' does not match any of the expected tags: {', '.join(_CHOICES)}")
        return
    for key in choice.keys() - _CHOICES[kind]:
        yield error(f"tool_choice.{kind}.{key}", EXTRA)
    if kind == "tool" and "name" not in choice:
        yield error("tool_choice.tool.name", REQUIRED)


def tool_choice_tools(asked: Asked) -> Iterator[Finding]:
    """A choice needs tools, and names one of them. Source: Messages API documentation, Tool use, 2026-10."""
    choice = part_of(asked, "tool_choice")
    if not choice:
        return
    tools = given(asked)
    if not tools:
        yield error("tool_choice", "may only be specified while providing tools")
    elif choice.get("type") == "tool" and choice.get("name") not in [tool.get("name") for _, tool in tools]:
        yield error("tool_choice", f"Tool '{choice.get('name')}' not found in provided tools")


def tool_choice_forced(asked: Asked) -> Iterator[Finding]:
    """Newer models are not forced to use tools, and none while it thinks. Source: Tool use, 2026-10."""
    if part_of(asked, "tool_choice").get("type") not in ("any", "tool"):
        return
    if asked.model is not None and not asked.model.tool_choice_forced:
        certain = "tool_choice_forced" not in asked.model.uncertain
        yield said(certain, "tool_choice", 'type "tool" and "any" are not supported for this model')
    if part_of(asked, "thinking").get("type") == "enabled":
        yield error("tool_choice", "Thinking may not be enabled when tool_choice forces tool use")


def references_defined(asked: Asked) -> Iterator[Finding]:
    """A reference to a tool names one of the tools. Source: Messages API documentation, Tool search, 2026-08."""
    marks = asked.outline.marked("tool_reference")
    if marks:
        names = [tool.get("name") for _, tool in given(asked)]
        for mark in marks:
            if mark.word not in names:
                yield warning(mark.path, f"no tool {mark.word!r} among the tools", turn=mark.turn)


OF_THE_TOOLS: Final[Sequence[Callable[[Asked], Iterator[Finding]]]] = (
    tools_listed,
    custom_tool_keys,
    tool_schema,
    tool_name,
    tool_name_documented,
    builtin_name,
    toolset_keys,
    tool_names_unique,
    tool_markers,
    domains,
    strict_tools,
    computer_tools,
    deferred,
    toolset_server,
    tool_betas,
    tool_choice_shape,
    tool_choice_tools,
    tool_choice_forced,
)
"""Like those of the settings, these look at parameters alone."""
