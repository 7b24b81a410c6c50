"""
Messages that no rule of shape has anything to say to, known at a glance: most of a long conversation.

Nothing here refuses: what is not ordinary is held to the rules one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_is_id: Final = re.compile(r"[a-zA-Z0-9_-]+\Z").match
_LONGEST_NAME: Final = 200
_TEXT: Final = {"type", "text"}
_CALL: Final = {"type", "id", "name", "input"}
_CALLED: Final = _CALL | {"caller"}
_RESULT: Final = {"type", "tool_use_id", "content"}
_FAILED: Final = _RESULT | {"is_error"}
_THINKING: Final = {"type", "thinking", "signature"}
_DIRECT: Final = {"type": "direct"}


def _is_text(block: Mapping[str, Any]) -> bool:
    text = block.get("text")
    return type(text) is str and block.keys() == _TEXT and not text.isspace() and text != ""


def _is_call(block: Mapping[str, Any]) -> bool:
    keys = block.keys()
    if keys != _CALL and (keys != _CALLED or block["caller"] != _DIRECT):
        return False
    name = block["name"]
    return (
        type(block["id"]) is str
        and _is_id(block["id"]) is not None
        and type(name) is str
        and len(name) <= _LONGEST_NAME
        and type(block["input"]) is dict
    )


def _is_result(block: Mapping[str, Any]) -> bool:
    keys = block.keys()
    if keys != _RESULT and (keys != _FAILED or type(block["is_error"]) is not bool):
        return False
    name, content = block["tool_use_id"], block["content"]
    if type(name) is not str or _is_id(name) is None:
        return False
    return type(content) is str or (
        type(content) is list
        and all(type(each) is dict and each.get("type") == "text" and _is_text(each) for each in content)
    )


def _is_thinking(block: Mapping[str, Any]) -> bool:
    return block.keys() == _THINKING


_KINDS: Final[Mapping[str, Mapping[object, Callable[[Mapping[str, Any]], bool]]]] = {
    "user": {"text": _is_text, "tool_result": _is_result},
    "assistant": {"text": _is_text, "tool_use": _is_call, "thinking": _is_thinking},
}


def is_ordinary(role: str, blocks: Sequence[Any]) -> bool:
    """Tell whether a message of that role is of text, thinking, calls and their results alone, each as it should be."""
    kinds = _KINDS.get(role, {})
    for block in blocks:
        if type(block) is not dict:
            return False
        kind = block.get("type")
        known = kinds.get(kind) if type(kind) is str else None
        if known is None or not known(block):
            return False
    return bool(blocks)
