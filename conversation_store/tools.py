"""
Tools of the caller's: one call run, whatever it does, into what its result says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from conversation_store.errors import ContentError
from conversation_store.record import canonical, codec
from conversation_store.record.blocks import Block, ToolResult, ToolUse

Tool: TypeAlias = Callable[..., Any]
"""A function that takes a call's input as keyword arguments and returns what its result says."""

_CONTENT: Final = (str, Block)


def name_of(call: ToolUse) -> str:
    """Name the function a call is for: ``get_weather``, or ``computer.screenshot`` for a member of a toolset."""
    return f"{call.toolset_name}.{call.name}" if isinstance(call.toolset_name, str) else call.name


def run(call: ToolUse, tools: Mapping[str, Tool]) -> tuple[object, bool]:
    """
    Run one call. Whatever goes wrong becomes a result that says so, for the model to read.

    Returns:
        The result's content, and whether it is an error.
    """
    tool = tools.get(name_of(call))
    if tool is None:
        return f"there is no tool {name_of(call)}", True
    if not isinstance(call.input, Mapping):
        return "the input of a tool is a JSON object", True
    try:
        content = content_of(tool(**call.input))
        # What cannot be a result is the tool's error.
        codec.wire("user", (ToolResult(call.id, codec.tool_result_content(content)),))  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - the model must get an answer, and may try otherwise
        return f"{type(error).__name__}: {error}", True
    return content, False


def content_of(returned: object) -> object:
    """
    Say what a function returned as a result's content: text and blocks as they are, other JSON as text.

    Raises:
        ContentError: It is none of these.
    """
    if returned is None or isinstance(returned, _CONTENT):
        return returned
    if isinstance(returned, (list, tuple)) and returned and all(_is_piece(each) for each in returned):
        return list(returned)
    if _is_piece(returned):
        return [returned]
    try:
        return canonical.dumps(returned).decode()
    except ContentError:
        return str(returned)


def _is_piece(value: object) -> bool:
    return isinstance(value, Block) or (isinstance(value, Mapping) and isinstance(value.get("type"), str))
