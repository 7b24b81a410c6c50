"""
The shape of a request: which keys and which kinds of values stand where.

Every table below is data of the Messages API documentation (Messages reference, content blocks, tools). A shape
is a function of a value, its path and the call it belongs to; it raises `RejectionError` with the API's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias


class RejectionError(Exception):
    """
    The API refuses the request.

    Attributes:
        message: The API's words, usually ``path: reason``.
        status: The HTTP status.
        kind: ``error.type`` of the answer.
        code: ``error.details.error_code``, None where there is none.
    """

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.code = code


@dataclass(frozen=True)
class Call:
    """
    What surrounds a body.

    Attributes:
        version: The ``anthropic-version`` header.
        betas: The ids of the ``anthropic-beta`` header.
        counting: True for ``count_tokens``.
        recalled: Whether a block came from this API; such a block is taken back whatever it holds.
        continued: Whether messages continue a turn this API paused: True as it was, False changed, None not at all.
    """

    version: str = "2026-10-21"
    betas: frozenset[str] = frozenset()
    counting: bool = False
    recalled: Callable[[Mapping[str, Any]], bool] = field(default=lambda _: False)
    continued: Callable[[Sequence[Mapping[str, Any]]], bool | None] = field(default=lambda _: None)


Shape: TypeAlias = Callable[[Any, str, Call], None]


class Member(NamedTuple):
    """One key of an object: its shape, whether it must be there, and the betas one of which opens it."""

    shape: Shape
    required: bool
    betas: Sequence[str] = ()


def need(shape: Shape) -> Member:
    """Return a key that must be there."""
    return Member(shape, required=True)


def may(shape: Shape, *betas: str) -> Member:
    """Return a key that may be absent; with *betas* it is unknown unless one of them is asked for."""
    return Member(shape, required=False, betas=betas)


def reject(path: str, reason: str) -> RejectionError:
    """Return the error for a value at *path*."""
    return RejectionError(f"{path}: {reason}" if path else reason)


def anything(value: Any, path: str, call: Call) -> None:
    """Accept whatever it is."""


def string(value: Any, path: str, _: Call) -> None:
    """Accept a string."""
    if not isinstance(value, str):
        raise reject(path, "Input should be a valid string")


def boolean(value: Any, path: str, _: Call) -> None:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise reject(path, "Input should be a valid boolean")


def number(value: Any, path: str, _: Call) -> None:
    """Accept a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise reject(path, "Input should be a valid number")


def dictionary(value: Any, path: str, _: Call) -> None:
    """Accept an object with any keys."""
    if not isinstance(value, dict):
        raise reject(path, "Input should be a valid dictionary")


def integer(minimum: int | None = None) -> Shape:
    """Return the shape of a whole number, not below *minimum*."""

    def check(value: Any, path: str, _: Call) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise reject(path, "Input should be a valid integer")
        if minimum is not None and value < minimum:
            raise reject(path, f"Input should be greater than or equal to {minimum}")

    return check


def matching(pattern: str, longest: int | None = None) -> Shape:
    """Return the shape of a string of a pattern and of at most *longest* characters."""
    compiled = re.compile(pattern)

    def check(value: Any, path: str, call: Call) -> None:
        string(value, path, call)
        if longest is not None and len(value) > longest:
            raise reject(path, f"String should have at most {longest} characters")
        if not compiled.fullmatch(value):
            raise reject(path, f"String should match pattern '{pattern}'")

    return check


def one_of(*values: str) -> Shape:
    """Return the shape of one string out of several."""
    quoted = [f"'{value}'" for value in values]
    listed = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))

    def check(value: Any, path: str, _: Call) -> None:
        if not isinstance(value, str) or value not in values:
            raise reject(path, f"Input should be {listed}")

    return check


def nullable(shape: Shape) -> Shape:
    """Return the shape of null or *shape*."""

    def check(value: Any, path: str, call: Call) -> None:
        if value is not None:
            shape(value, path, call)

    return check


def array(shape: Shape) -> Shape:
    """Return the shape of a list of *shape*."""

    def check(value: Any, path: str, call: Call) -> None:
        if not isinstance(value, list):
            raise reject(path, "Input should be a valid list")
        for index, item in enumerate(value):
            shape(item, f"{path}.{index}", call)

    return check


def text_or(shape: Shape) -> Shape:
    """Return the shape of a string or of *shape*."""

    def check(value: Any, path: str, call: Call) -> None:
        if not isinstance(value, str):
            shape(value, path, call)

    return check


def record(members: Mapping[str, Member]) -> Shape:
    """Return the shape of an object with these keys and no others."""
    required = [key for key, member in members.items() if member.required]

    def check(value: Any, path: str, call: Call) -> None:
        dictionary(value, path, call)
        start = f"{path}." if path else ""
        for key in required:
            if key not in value:
                raise reject(f"{start}{key}", "Field required")
        for key, item in value.items():
            member = members.get(key)
            if member is None or (member.betas and call.betas.isdisjoint(member.betas)):
                raise reject(f"{start}{key}", "Extra inputs are not permitted")
            member.shape(item, f"{start}{key}", call)

    return check


def tagged(kinds: Mapping[str, Shape], betas: Mapping[str, Sequence[str]] | None = None) -> Shape:
    """Return the shape of an object whose ``type`` says which of *kinds* it is, some open to *betas* only."""
    gates = betas or {}

    def check(value: Any, path: str, call: Call) -> None:
        dictionary(value, path, call)
        if "type" not in value:
            raise reject(f"{path}.type", "Field required")
        tag = value["type"]
        shape = kinds.get(tag) if isinstance(tag, str) else None
        if shape is None or (tag in gates and call.betas.isdisjoint(gates[tag])):
            known = ", ".join(f"'{kind}'" for kind in kinds if kind not in gates)
            reason = f"Input tag '{tag}' found using 'type' does not match any of the expected tags: {known}"
            raise reject(path, reason)
        shape(value, f"{path}.{tag}", call)

    return check


def recalling(shape: Shape) -> Shape:
    """Return *shape*, relaxed for objects this API itself has answered with."""

    def check(value: Any, path: str, call: Call) -> None:
        try:
            shape(value, path, call)
        except RejectionError:
            if not isinstance(value, dict) or not call.recalled(value):
                raise

    return check


def _typed(members: Mapping[str, Member]) -> Shape:
    return record({"type": need(anything), **members})


def _cached(members: Mapping[str, Member]) -> Shape:
    return _typed({**members, "cache_control": may(CACHE)})


def fingerprint(block: Mapping[str, Any]) -> str:
    """Return what two equal blocks share: their JSON, keys sorted, without the caller's cache marker."""
    plain = {key: value for key, value in block.items() if key != "cache_control"}
    return json.dumps(plain, sort_keys=True)


# -- betas ---------------------------------------------------------------------------------------------------

MCP: Final = ("mcp-client-2025-11-20", "mcp-client-2026-09-15")
COMPACTION: Final = ("compact-2026-01-12", "compact-2026-09-04")
ADVISOR: Final = ("advisor-tool-2026-03-01",)
TOOL_CHANGES: Final = ("mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15")
COMPUTER: Final = ("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24")

# -- content blocks ------------------------------------------------------------------------------------------

CACHE: Final = nullable(tagged({"ephemeral": record({"type": need(anything), "ttl": may(one_of("5m", "1h"))})}))
_INDEX: Final = need(integer(0))
_TITLE: Final = need(nullable(string))
_CITED: Final = {"cited_text": need(string), "document_index": _INDEX, "document_title": _TITLE}
_FILE_OF_CITATION: Final = {"file_id": may(nullable(string))}
_CITATION: Final = tagged(
    {
        "char_location": _typed({**_CITED, "start_char_index": _INDEX, "end_char_index": _INDEX, **_FILE_OF_CITATION}),
        "page_location": _typed(
            {**_CITED, "start_page_number": _INDEX, "end_page_number": _INDEX, **_FILE_OF_CITATION}
        ),
        "content_block_location": _typed(
            {**_CITED, "start_block_index": _INDEX, "end_block_index": _INDEX, **_FILE_OF_CITATION}
        ),
        "web_search_result_location": _typed(
            {
                "cited_text": need(string),
                "encrypted_index": need(string),
                "title": need(nullable(string)),
                "url": need(string),
            }
        ),
        "search_result_location": _typed(
            {
                "cited_text": need(string),
                "search_result_index": _INDEX,
                "source": need(string),
                "title": need(nullable(string)),
                "start_block_index": _INDEX,
                "end_block_index": _INDEX,
            }
        ),
    }
)
_TEXT: Final = _cached({"text": need(string), "citations": may(nullable(array(_CITATION)))})
_CITING: Final = nullable(record({"enabled": may(boolean)}))
_URL: Final = _typed({"url": need(string)})
_FILE: Final = _typed({"file_id": need(string)})
_IMAGE: Final = _cached(
    {
        "source": need(
            tagged(
                {
                    "base64": _typed(
                        {
                            "media_type": need(one_of("image/jpeg", "image/png", "image/gif", "image/webp")),
                            "data": need(string),
                        }
                    ),
                    "url": _URL,
                    "file": _FILE,
                }
            )
        ),
        "transformations": may(nullable(record({"oversized_image": may(one_of("downsize", "error"))}))),
    }
)
_DOCUMENT: Final = _cached(
    {
        "source": need(
            tagged(
                {
                    "base64": _typed({"media_type": need(one_of("application/pdf")), "data": need(string)}),
                    "text": _typed({"media_type": need(one_of("text/plain")), "data": need(string)}),
                    "content": _typed({"content": need(text_or(array(tagged({"text": _TEXT, "image": _IMAGE}))))}),
                    "url": _URL,
                    "file": _FILE,
                }
            )
        ),
        "title": may(nullable(string)),
        "context": may(nullable(string)),
        "citations": may(_CITING),
    }
)
_SEARCH_RESULT: Final = _cached(
    {
        "source": need(string),
        "title": need(string),
        "content": need(array(tagged({"text": _TEXT}))),
        "citations": may(_CITING),
    }
)
_TOOLSET: Final = may(nullable(one_of("computer", "browser")))
_RESULT_CONTENT: Final = tagged(
    {
        "text": _TEXT,
        "image": _IMAGE,
        "document": _DOCUMENT,
        "search_result": _SEARCH_RESULT,
        "tool_reference": _cached({"tool_name": need(string)}),
        "browser_state": _cached({"tabs": need(array(dictionary)), "state_changes": may(nullable(array(dictionary)))}),
    }
)
_CALL_ID: Final = matching("^[a-zA-Z0-9_-]+$")
_CALLER: Final = tagged(
    {
        "direct": _typed({}),
        "code_execution_20250825": _typed({"tool_id": need(string)}),
        "code_execution_20260120": _typed({"tool_id": need(string)}),
    }
)
_SERVER_TOOLS: Final = (
    "web_search",
    "web_fetch",
    "code_execution",
    "bash_code_execution",
    "text_editor_code_execution",
    "tool_search_tool_regex",
    "tool_search_tool_bm25",
    "advisor",
)


def _server_result(members: Mapping[str, Member]) -> Shape:
    return _cached({"tool_use_id": need(string), "content": need(anything), **members})


_MODEL_NAME: Final = record({"model": need(string)})
CONTENT: Final[Mapping[str, Shape]] = {
    "text": _TEXT,
    "image": _IMAGE,
    "document": _DOCUMENT,
    "search_result": _SEARCH_RESULT,
    "thinking": _typed({"thinking": need(string), "signature": need(string)}),
    "redacted_thinking": _typed({"data": need(string)}),
    "tool_use": _cached(
        {
            "id": need(_CALL_ID),
            "name": need(matching(r"^[\s\S]+$", 200)),
            "input": need(dictionary),
            "caller": may(_CALLER),
            "toolset_name": _TOOLSET,
        }
    ),
    "tool_result": _cached(
        {
            "tool_use_id": need(_CALL_ID),
            "content": may(text_or(array(_RESULT_CONTENT))),
            "is_error": may(boolean),
            "toolset_name": _TOOLSET,
        }
    ),
    "server_tool_use": _cached(
        {
            "id": need(matching("^srvtoolu_[a-zA-Z0-9_]+$")),
            "name": need(one_of(*_SERVER_TOOLS)),
            "input": need(dictionary),
            "caller": may(_CALLER),
        }
    ),
    "web_search_tool_result": _server_result({"caller": may(_CALLER)}),
    "web_fetch_tool_result": _server_result({"caller": may(_CALLER)}),
    "code_execution_tool_result": _server_result({}),
    "bash_code_execution_tool_result": _server_result({}),
    "text_editor_code_execution_tool_result": _server_result({}),
    "tool_search_tool_result": _server_result({}),
    "container_upload": _cached({"file_id": need(string)}),
    "fallback": _typed({"from": need(_MODEL_NAME), "to": need(_MODEL_NAME), "trigger": may(anything)}),
    "connector_text": anything,
    "advisor_tool_result": _server_result({}),
    "mcp_tool_use": _cached(
        {
            "id": need(_CALL_ID),
            "name": need(string),
            "server_name": need(string),
            "input": need(dictionary),
        }
    ),
    "mcp_tool_result": _cached(
        {
            "tool_use_id": need(string),
            "content": may(text_or(array(tagged({"text": _TEXT})))),
            "is_error": may(boolean),
        }
    ),
    "mcp_tool_listing": _typed({"mcp_server_name": need(string), "tools": need(array(dictionary))}),
    "compaction": _cached(
        {
            "content": need(nullable(matching(r"^[\s\S]+$"))),
            "encrypted_content": may(nullable(string)),
            "signature": may(nullable(string)),
            "tool_changes": may(nullable(array(dictionary))),
        }
    ),
}
"""Every content block of user and assistant messages."""
_CONTENT_BETAS: Final = {
    "advisor_tool_result": ADVISOR,
    "mcp_tool_use": MCP,
    "mcp_tool_result": MCP,
    "mcp_tool_listing": MCP,
    "compaction": COMPACTION,
}
BLOCK: Final = recalling(tagged(CONTENT, _CONTENT_BETAS))
EVERY_BETA: Final = frozenset(beta for betas in _CONTENT_BETAS.values() for beta in betas)
"""The betas that open every block."""
_TOOL_CHANGE: Final = _cached({"tool": need(dictionary)})
_SYSTEM_BLOCK: Final = tagged(
    {"text": _TEXT, "tool_addition": _TOOL_CHANGE, "tool_removal": _TOOL_CHANGE},
    {"tool_addition": TOOL_CHANGES, "tool_removal": TOOL_CHANGES},
)
_EFFORT: Final = nullable(one_of("low", "medium", "high", "xhigh", "max"))
_SPOKEN: Final = record({"role": need(one_of("user", "assistant", "system")), "content": need(text_or(array(BLOCK)))})
_SYSTEM: Final = record(
    {
        "role": need(anything),
        "content": may(text_or(array(_SYSTEM_BLOCK))),
        "clear_at": may(one_of("never", "next_user_message"), "mid-conversation-system-clear-at-2026-08-21"),
        "output_config": may(record({"effort": need(_EFFORT)}), "mid-conversation-output-config-2026-07-01"),
    }
)


def _message(value: Any, path: str, call: Call) -> None:
    dictionary(value, path, call)
    (_SYSTEM if value.get("role") == "system" else _SPOKEN)(value, path, call)


# -- tools ---------------------------------------------------------------------------------------------------

_TOOL: Final = {
    "type": may(nullable(string)),
    "cache_control": may(CACHE),
    "strict": may(boolean),
    "defer_loading": may(boolean),
    "allowed_callers": may(
        array(one_of("direct", "code_execution_20250825", "code_execution_20260120", "code_execution_20260521"))
    ),
}


def _schema(value: Any, path: str, call: Call) -> None:
    dictionary(value, path, call)
    if "type" not in value:
        raise reject(f"{path}.type", "Field required")
    one_of("object")(value["type"], f"{path}.type", call)


_CUSTOM: Final = record(
    {
        **_TOOL,
        "name": need(matching("^[a-zA-Z0-9_-]{1,128}$", 128)),
        "input_schema": need(_schema),
        "description": may(string),
        "eager_input_streaming": may(nullable(boolean)),
        "input_examples": may(array(dictionary)),
    }
)
_COUNT: Final = may(nullable(integer(1)))
_DOMAINS: Final = {
    "max_uses": _COUNT,
    "allowed_domains": may(nullable(array(string))),
    "blocked_domains": may(nullable(array(string))),
}
_SEARCH: Final = {**_DOMAINS, "user_location": may(nullable(dictionary))}
_FETCH: Final = {**_DOMAINS, "citations": may(_CITING), "max_content_tokens": _COUNT, "url_sources": may(anything)}
_INCLUSION: Final = {"response_inclusion": may(one_of("full", "excluded"))}
_USE_CACHE: Final = {"use_cache": may(boolean)}
_SCREEN: Final = {
    "display_width_px": need(integer(1)),
    "display_height_px": need(integer(1)),
    "display_number": may(nullable(integer(0))),
}
_EXAMPLES: Final = {"input_examples": may(array(dictionary))}


def _builtin(name: str, members: Mapping[str, Member] | None = None) -> Shape:
    return record({**_TOOL, "name": need(one_of(name)), **(members or {})})


_TOOLSET_MEMBERS: Final = {
    "type": need(string),
    "configs": may(nullable(dictionary)),
    "cache_control": may(CACHE),
}
_TOOLS: Final[Mapping[str, Shape]] = {
    "bash_20241022": _builtin("bash", _EXAMPLES),
    "bash_20250124": _builtin("bash", _EXAMPLES),
    "text_editor_20241022": _builtin("str_replace_editor", _EXAMPLES),
    "text_editor_20250124": _builtin("str_replace_editor", _EXAMPLES),
    "text_editor_20250429": _builtin("str_replace_based_edit_tool", _EXAMPLES),
    "text_editor_20250728": _builtin("str_replace_based_edit_tool", {**_EXAMPLES, "max_characters": _COUNT}),
    "memory_20250818": _builtin("memory", _EXAMPLES),
    "computer_20241022": _builtin("computer", {**_EXAMPLES, **_SCREEN}),
    "computer_20250124": _builtin("computer", {**_EXAMPLES, **_SCREEN}),
    "computer_20251124": _builtin("computer", {**_EXAMPLES, **_SCREEN, "enable_zoom": may(boolean)}),
    "computer_toolset_20260801": record(_TOOLSET_MEMBERS),
    "browser_toolset_20260801": record(_TOOLSET_MEMBERS),
    "web_search_20250305": _builtin("web_search", _SEARCH),
    "web_search_20260209": _builtin("web_search", _SEARCH),
    "web_search_20260318": _builtin("web_search", {**_SEARCH, **_INCLUSION}),
    "web_fetch_20250910": _builtin("web_fetch", _FETCH),
    "web_fetch_20260209": _builtin("web_fetch", _FETCH),
    "web_fetch_20260309": _builtin("web_fetch", {**_FETCH, **_USE_CACHE}),
    "web_fetch_20260318": _builtin("web_fetch", {**_FETCH, **_USE_CACHE, **_INCLUSION}),
    "code_execution_20250522": _builtin("code_execution"),
    "code_execution_20250825": _builtin("code_execution"),
    "code_execution_20260120": _builtin("code_execution"),
    "code_execution_20260521": _builtin("code_execution"),
    "tool_search_tool_regex": _builtin("tool_search_tool_regex"),
    "tool_search_tool_regex_20251119": _builtin("tool_search_tool_regex"),
    "tool_search_tool_bm25": _builtin("tool_search_tool_bm25"),
    "tool_search_tool_bm25_20251119": _builtin("tool_search_tool_bm25"),
    "advisor_20260301": _builtin(
        "advisor",
        {"model": need(string), "max_uses": _COUNT, "max_tokens": _COUNT, "caching": may(anything)},
    ),
    "mcp_toolset": record(
        {
            "type": need(string),
            "mcp_server_name": need(string),
            "default_config": may(nullable(dictionary)),
            "configs": may(nullable(dictionary)),
            "tools": may(nullable(array(dictionary))),
            "cache_control": may(CACHE),
        }
    ),
}
_BUILT_IN: Final = tagged(
    _TOOLS,
    {
        "bash_20241022": COMPUTER,
        "text_editor_20241022": COMPUTER,
        "computer_20241022": COMPUTER,
        "computer_20250124": COMPUTER,
        "computer_20251124": COMPUTER,
        "advisor_20260301": ADVISOR,
        "mcp_toolset": MCP,
    },
)


def _tool(value: Any, path: str, call: Call) -> None:
    dictionary(value, path, call)
    if value.get("type") in {None, "custom"}:
        _CUSTOM(value, f"{path}.custom", call)
    else:
        _BUILT_IN(value, path, call)


_PARALLEL: Final = {"disable_parallel_tool_use": may(boolean)}
_TOOL_CHOICE: Final = tagged(
    {
        "auto": _typed(_PARALLEL),
        "any": _typed(_PARALLEL),
        "tool": _typed({"name": need(string), **_PARALLEL}),
        "none": _typed({}),
    }
)

# -- the body ------------------------------------------------------------------------------------------------

_BINDING: Final = may(
    nullable(record({"prefix_mismatch_behavior": may(nullable(one_of("error", "drop_block")))})),
    "thinking-binding-controls-2026-08-01",
)


def _display(value: Any, path: str, call: Call) -> None:
    shown = ["summarized", "omitted"]
    if "thinking-display-updates-2026-08-18" in call.betas:
        shown.append("updates")
    nullable(one_of(*shown))(value, path, call)


_THINKING: Final = tagged(
    {
        "adaptive": _typed({"display": may(_display), "block_binding": _BINDING}),
        "enabled": _typed({"budget_tokens": need(integer(1024)), "display": may(_display), "block_binding": _BINDING}),
        "disabled": _typed({}),
        "between_tools": _typed({}),
    }
)
_OUTPUT: Final = record(
    {
        "effort": may(_EFFORT),
        "format": may(nullable(tagged({"json_schema": _typed({"schema": need(dictionary)})}))),
        "task_budget": may(
            tagged({"tokens": _typed({"total": need(integer(20_000)), "remaining": may(nullable(integer(0)))})}),
            "task-budgets-2026-03-13",
        ),
    }
)
_SKILL: Final = record({"type": need(one_of("anthropic", "custom")), "skill_id": need(string), "version": may(string)})
_MCP_SERVER: Final = record(
    {
        "type": need(one_of("url")),
        "name": need(string),
        "url": need(matching("^https://.+$")),
        "authorization_token": may(nullable(string)),
        "tool_configuration": may(nullable(dictionary)),
    }
)
_COMMON: Final = {
    "model": need(string),
    "messages": need(array(_message)),
    "system": may(text_or(array(tagged({"text": _TEXT})))),
    "tools": may(array(_tool)),
    "tool_choice": may(_TOOL_CHOICE),
    "thinking": may(_THINKING),
    "output_config": may(_OUTPUT),
    "cache_control": may(CACHE),
    "speed": may(nullable(one_of("standard", "fast"))),
    "mcp_servers": may(array(_MCP_SERVER), *MCP),
    "context_management": may(nullable(dictionary), "context-management-2025-06-27", "compact-2026-01-12"),
    "compaction": may(
        nullable(tagged({"summarize": _typed({"instructions": may(nullable(string))})})), "compact-2026-09-04"
    ),
}
_FALLBACK_BETAS: Final = ("server-side-fallback-2026-06-01", "server-side-fallback-2026-07-01")
_CREDIT_BETAS: Final = ("fallback-credit-2026-06-01", "fallback-credit-2026-07-01")
_MESSAGES: Final = {
    **_COMMON,
    "max_tokens": need(integer(0)),
    "container": may(nullable(text_or(record({"id": may(nullable(string)), "skills": may(nullable(array(_SKILL)))})))),
    "diagnostics": may(nullable(record({"previous_message_id": need(nullable(string))}))),
    "inference_geo": may(nullable(one_of("global", "us"))),
    "metadata": may(record({"user_id": may(nullable(matching(r"^[\s\S]*$", 256)))})),
    "service_tier": may(one_of("auto", "standard_only")),
    "stop_sequences": may(array(string)),
    "stream": may(boolean),
    "fallbacks": may(anything, *_FALLBACK_BETAS),
    "fallback_credit_token": may(text_or(dictionary), *_CREDIT_BETAS),
    "thread": may(dictionary, "message-threads-2026-08-12"),
    "billing_policy": may(dictionary, "user-profiles-billing-2026-10-01"),
    "output_format": may(nullable(dictionary), "structured-outputs-2025-11-13"),
}
_SAMPLING: Final = {"temperature": may(number), "top_p": may(number), "top_k": may(integer(0))}
_BODY: Final = record(_MESSAGES)
_BODY_2023: Final = record({**_MESSAGES, **_SAMPLING})
_COUNTED: Final = record(_COMMON)


def check_shape(body: Any, call: Call) -> None:
    """
    Check every key and the kind of every value of a request body.

    Raises:
        RejectionError: Something is missing, unknown, or of the wrong kind; the first such thing.
    """
    if call.counting:
        _COUNTED(body, "", call)
    else:
        (_BODY if call.version == "2026-10-21" else _BODY_2023)(body, "", call)
