"""
What the API would refuse, found before anything is written: one function a rule, all findings at once.

Rules look at messages and parameters as JSON values, and never at what came from the API: only a caller's
words can be wrong. A rule that is not certain warns instead of stopping. Texts follow the API's own.

To add a rule: write a generator of findings, cite its source, and put it in ``OF_A_MESSAGE`` or ``OF_A_REQUEST``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from attrs import frozen

from conversation_store.api.models import Model, Models
from conversation_store.record.codec import ROLES
from conversation_store.record.exchange import between_cited


@frozen
class Finding:
    """
    What a rule says about a request.

    Attributes:
        rule: The rule's name, stable.
        severity: ``error`` stops a send, ``warning`` does not.
        path: Where, as the API would say it: ``messages.3.content.1.text``.
        message: What is wrong, in the API's words where it has some, and what would be right.
    """

    rule: str
    severity: Literal["error", "warning"]
    path: str
    message: str


@frozen(kw_only=True)
class Asked:
    """
    A request as the rules see it.

    Attributes:
        params: Every top-level parameter but ``messages``.
        version: The API version it is sent under.
        count: How many messages it has, prefill included.
        first: The first message's role, None without messages; ``last`` the last one's.
        final: The last message's ``content`` where that message is the assistant's.
        prefill: Whether that last message is a prefill rather than a turn.
        sending: Whether it goes out as it is; a request that is only built may still get a user's message.
        models: What is known of models.
        open_calls: Ids of the calls in the last assistant turn that no result answers.
        orphans: Of each result in the last user turn that answers no open call: where it is, and its id.
        allow_unlisted_model: Take a prefill to a model of which nothing is known.
    """

    params: Mapping[str, Any]
    version: str
    count: int
    first: str | None
    last: str | None
    final: Any
    prefill: bool
    sending: bool
    models: Models
    open_calls: Sequence[str] = ()
    orphans: Sequence[tuple[str, str]] = ()
    allow_unlisted_model: bool = False

    @property
    def model(self) -> Model | None:
        """What is known of the model asked."""
        name = self.params.get("model")
        return self.models.get(name) if isinstance(name, str) else None


def _error(rule: str, path: str, message: str) -> Finding:
    return Finding(rule, "error", path, message)


def _texts(content: object, path: str) -> Iterator[tuple[int, str, Any]]:
    if isinstance(content, (list, tuple)):
        for n, block in enumerate(content):
            if isinstance(block, Mapping) and block.get("type") == "text":
                yield n, f"{path}.{n}.text", block.get("text")


# --- of a message ------------------------------------------------------------------------------------------------


def role(message: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Roles are user, assistant and system. Source: Messages API documentation, Messages."""
    if message.get("role") not in ROLES:
        yield _error("role", f"{path}role", f"Input should be {', '.join(map(repr, ROLES))}")


def content_not_empty(message: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """A message has content. Source: Messages API, errors seen for empty content."""
    content = message.get("content")
    effort_only = message.get("role") == "system" and "output_config" in message
    if not content and not effort_only:
        yield _error(
            "content_not_empty",
            f"{path}content",
            "all messages must have non-empty content except for the optional final assistant message",
        )


def text_not_blank(message: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Text is neither empty nor only white space. Source: Messages API, errors seen for empty text."""
    content = message.get("content")
    if isinstance(content, str) and content and not content.strip():
        yield _error("text_not_blank", f"{path}content", "text content blocks must contain non-whitespace text")
    for n, where, text in _texts(content, f"{path}content"):
        if not isinstance(text, str):
            yield _error("text_not_blank", where, "Input should be a valid string")
        elif not text:
            yield _error("text_not_blank", where, "text content blocks must be non-empty")
        elif not text.strip() and not between_cited(content, n):  # type: ignore[arg-type]
            yield _error("text_not_blank", where, "text content blocks must contain non-whitespace text")


_USER_ONLY: Final = frozenset({"image", "search_result", "tool_result"})
_ASSISTANT_ONLY: Final = frozenset(
    {
        "tool_use",
        "thinking",
        "redacted_thinking",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "advisor_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "mcp_tool_listing",
        "fallback",
    }
)
_SYSTEM: Final = frozenset({"text", "tool_addition", "tool_removal"})


def block_in_place(message: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Each kind of block belongs to certain roles. Source: Messages API documentation, content blocks."""
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return
    speaker = message.get("role")
    for n, block in enumerate(content):
        kind = block.get("type") if isinstance(block, Mapping) else None
        where = f"{path}content.{n}"
        if speaker == "user" and kind in _ASSISTANT_ONLY:
            yield _error("block_in_place", where, f"a {kind} block belongs in an assistant message")
        elif speaker == "assistant" and kind == "tool_result":
            yield _error("block_in_place", where, "a tool_result block belongs in a user message")
        elif speaker == "assistant" and kind in _USER_ONLY:
            yield Finding("block_in_place", "warning", where, f"a {kind} block belongs in a user message")
        elif speaker == "system" and kind not in _SYSTEM:
            yield _error("block_in_place", where, "a system message holds text blocks")


_ID: Final = re.compile(r"[a-zA-Z0-9_-]+\Z")


def tool_ids(message: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Ids of tool calls are of letters, digits, _ and -. Source: Messages API, error text of 2026-02."""
    content = message.get("content")
    for n, block in enumerate(content if isinstance(content, (list, tuple)) else ()):
        if isinstance(block, Mapping) and block.get("type") == "tool_use":
            name = block.get("id")
            if not isinstance(name, str) or not _ID.match(name):
                yield _error(
                    "tool_ids",
                    f"{path}content.{n}.tool_use.id",
                    "String should match pattern '^[a-zA-Z0-9_-]+$'",
                )


OF_A_MESSAGE: Final[Sequence[Callable[[Mapping[str, Any], str], Iterator[Finding]]]] = (
    role,
    content_not_empty,
    text_not_blank,
    block_in_place,
    tool_ids,
)


# --- of a request ------------------------------------------------------------------------------------------------


def required(asked: Asked) -> Iterator[Finding]:
    """A request names its model and its max_tokens. Source: Messages API documentation, Create a message."""
    for name in ("model", "max_tokens"):
        if asked.params.get(name) is None:
            yield _error("required", name, "Field required")


def max_tokens_in_range(asked: Asked) -> Iterator[Finding]:
    """max_tokens is a number from 0 up to the model's most. Source: Models overview, 2026-10."""
    most = asked.params.get("max_tokens")
    if most is None:
        return
    if type(most) is not int or most < 0:
        yield _error("max_tokens_in_range", "max_tokens", "Input should be an integer of 0 or more")
    elif asked.model is not None and asked.model.max_output is not None and most > asked.model.max_output:
        yield _error(
            "max_tokens_in_range",
            "max_tokens",
            f"{most} > {asked.model.max_output}, which is the maximum allowed number of output tokens for "
            f"{asked.params.get('model')}",
        )


def some_message(asked: Asked) -> Iterator[Finding]:
    """There is at least one message and at most 100,000. Source: Messages API documentation, Create a message."""
    if asked.count == 0:
        yield _error("some_message", "messages", "at least one message is required: add a user turn first")
    elif asked.count > 100_000:  # noqa: PLR2004 - the documented limit
        yield _error("some_message", "messages", f"{asked.count} messages; at most 100000 are allowed")


def first_is_user(asked: Asked) -> Iterator[Finding]:
    """A conversation begins with the user. Source: Messages API, error text; exceptions need a beta."""
    if asked.first is not None and asked.first != "user":
        yield Finding(
            "first_is_user",
            "error" if asked.first == "assistant" else "warning",
            "messages.0.role",
            'first message must use the "user" role',
        )


def prefill_model(asked: Asked) -> Iterator[Finding]:
    """Only some models continue an assistant message. Source: Messages API documentation, Prefill not supported."""
    if asked.last != "assistant" or not (asked.prefill or asked.sending):
        return
    name = asked.params.get("model")
    model = asked.model
    if model is not None and model.prefill:
        return
    if _ends_with_server_tool(asked.final):
        return  # a paused turn to be continued
    path = f"messages.{asked.count - 1}"
    takers = ", ".join(sorted(each.id for each in asked.models.where(prefill=True)))
    if model is None:
        if not asked.allow_unlisted_model:
            yield _error(
                "prefill_model",
                path,
                f"whether {name} takes a prefill is not known; say allow_unlisted_model=True to try, "
                f"or use one that does: {takers}",
            )
        return
    yield _error(
        "prefill_model",
        path,
        f"{name} does not support assistant message prefill. The conversation must end with a user message. "
        f"Models that do: {takers}",
    )


def _ends_with_server_tool(content: object) -> bool:
    last = content[-1] if isinstance(content, (list, tuple)) and content else None
    kind = last.get("type") if isinstance(last, Mapping) else None
    return isinstance(kind, str) and (
        kind in {"server_tool_use", "mcp_tool_use"} or (kind.endswith("_tool_result") and kind != "tool_result")
    )


def prefill_ends_in_words(asked: Asked) -> Iterator[Finding]:
    """A final assistant text does not end in white space. Source: Messages API, error text."""
    if asked.last != "assistant" or not (asked.prefill or asked.sending):
        return
    text = asked.final
    path = f"messages.{asked.count - 1}.content"
    if isinstance(text, (list, tuple)) and text and isinstance(text[-1], Mapping):
        path += f".{len(text) - 1}.text"
        text = text[-1].get("text") if text[-1].get("type") == "text" else None
    if isinstance(text, str) and text != text.rstrip():
        yield _error(
            "prefill_ends_in_words",
            path,
            "final assistant content cannot end with trailing whitespace: leave the space to the model",
        )


def prefill_alone(asked: Asked) -> Iterator[Finding]:
    """A prefill goes with neither thinking nor a format. Source: Messages API documentation, Structured outputs."""
    if not asked.prefill:
        return
    path = f"messages.{asked.count - 1}"
    thinking = asked.params.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") not in (None, "disabled"):
        yield _error("prefill_alone", path, "a prefill cannot be used with thinking")
    output = asked.params.get("output_config")
    if isinstance(output, Mapping) and output.get("format") is not None:
        yield _error("prefill_alone", path, "a prefill cannot be used with output_config.format")


def calls_answered(asked: Asked) -> Iterator[Finding]:
    """Each call of a tool is answered in the next user message. Source: Messages API documentation, Tool use."""
    if asked.open_calls and asked.sending:
        yield _error(
            "calls_answered",
            f"messages.{asked.count - 1}",
            "`tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(asked.open_calls)}. Answer each with tool_result(), or run_tools()",
        )


def results_asked_for(asked: Asked) -> Iterator[Finding]:
    """Each result answers a call of the turn before it. Source: Messages API documentation, Tool use."""
    for path, name in asked.orphans:
        yield _error(
            "results_asked_for",
            path,
            f"unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each `tool_result` block must have a "
            "corresponding `tool_use` block in the previous message.",
        )


def sampling(asked: Asked) -> Iterator[Finding]:
    """Sampling parameters are gone from version 2026-10-21 on. Source: Migrating to API version 2026-10-21."""
    if asked.version >= "2026-10-21":
        for name in ("temperature", "top_p", "top_k"):
            if name in asked.params:
                yield _error("sampling", name, "Extra inputs are not permitted")


def listed(asked: Asked) -> Iterator[Finding]:
    """A model of which nothing is known is used all the same; say so."""
    name = asked.params.get("model")
    if name is not None and asked.model is None:
        yield Finding("listed", "warning", "model", f"{name} is not in the list of models: its limits are not checked")


OF_A_REQUEST: Final[Sequence[Callable[[Asked], Iterator[Finding]]]] = (
    required,
    max_tokens_in_range,
    some_message,
    first_is_user,
    prefill_model,
    prefill_ends_in_words,
    prefill_alone,
    calls_answered,
    results_asked_for,
    sampling,
    listed,
)


def check_message(message: Mapping[str, Any], path: str = "") -> list[Finding]:
    """
    Look at one message by itself.

    Args:
        message: In the API's shape.
        path: What leads to it in a finding: ``messages.3.``, with the dot; empty for a message alone.
    """
    return [finding for rule in OF_A_MESSAGE for finding in rule(message, path)]


def check_request(asked: Asked) -> list[Finding]:
    """Look at a request as a whole; its messages one by one are ``check_message``'s."""
    return [finding for rule in OF_A_REQUEST for finding in rule(asked)]
