"""
Rules of one message by itself.

To add a rule: write a generator of a ``Message``, cite its source, and name it in ``OF_A_MESSAGE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from conversation_store.api.rules.blocks import EXTRA, check_blocks, kind_of
from conversation_store.api.rules.findings import Finding, error, named, warning
from conversation_store.api.rules.places import Place
from conversation_store.record.codec import ROLES

EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


@frozen
class Message:
    """
    A message on its way through the rules.

    Attributes:
        value: In the API's shape.
        place: Where its content is.
        blocks: Its content as blocks.
    """

    value: Mapping[str, Any]
    place: Place
    blocks: Sequence[Any]

    @property
    def role(self) -> str:
        """Whose it is."""
        return self.place.role

    @property
    def path(self) -> str:
        """What leads to it, without a dot at its end."""
        return self.place.path.removesuffix("content").removesuffix(".")

    def below(self, name: str) -> str:
        """Write the path of one of its keys."""
        return f"{self.path}.{name}" if self.path else name

    @property
    def effort_only(self) -> bool:
        """Whether it says nothing and only changes the effort."""
        return self.role == "system" and not self.value.get("content") and "output_config" in self.value


def message_of(value: Mapping[str, Any], place: Place) -> Message:
    """Look at a message in the API's shape; a string is one text block."""
    content = value.get("content")
    if isinstance(content, str):
        return Message(value, place, [{"type": "text", "text": content}] if content else [])
    return Message(value, place, content if isinstance(content, (list, tuple)) else [])


def role(message: Message) -> Iterator[Finding]:
    """Roles are user, assistant and system. Source: Messages API documentation, Messages, 2026-11."""
    if message.value.get("role") not in ROLES:
        expected = ", ".join(map(repr, ROLES))
        yield error(message.below("role"), f"Input should be {expected}", turn=message.place.turn)


def message_keys(message: Message) -> Iterator[Finding]:
    """
    A message has a role and content; a system message may change the effort or be cleared later.

    Source: Messages API documentation, Mid-conversation system messages, 2026-10.
    """
    for key in message.value:
        if key in {"role", "content"} or (message.role == "system" and key in {"output_config", "clear_at"}):
            continue
        why = "clear_at is only permitted on role 'system' messages" if key == "clear_at" else EXTRA
        yield error(message.below(key), why, turn=message.place.turn)


def content_not_empty(message: Message) -> Iterator[Finding]:
    """A message has content. Source: Messages API, errors seen for empty content, 2024 to 2026."""
    if not message.value.get("content") and not message.effort_only:
        why = "all messages must have non-empty content except for the optional final assistant message"
        if message.role == "system":
            why = "a system message has content or output_config"
        yield error(message.below("content"), why, turn=message.place.turn, fix="set_aside")


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
_NESTED_ONLY: Final = frozenset({"tool_reference", "browser_state"})
_SYSTEM: Final = frozenset({"text", "tool_addition", "tool_removal"})


def block_in_place(message: Message) -> Iterator[Finding]:
    """Each kind of block belongs to certain roles. Source: Messages API documentation, Content blocks, 2026-11."""
    place, speaker = message.place, message.role
    for n, block in enumerate(message.blocks):
        kind = kind_of(block)
        if kind is None:
            continue
        if speaker == "system":
            if kind not in _SYSTEM:
                yield place.error(n, "a system message holds text blocks")
        elif kind in _NESTED_ONLY:
            yield place.error(n, f"a {kind} block belongs in the content of a tool_result")
        elif kind in {"tool_addition", "tool_removal"}:
            yield place.error(n, f"a {kind} block belongs in a system message")
        elif speaker == "user" and kind in _ASSISTANT_ONLY:
            yield place.error(n, f"a {kind} block belongs in an assistant message")
        elif speaker == "assistant" and kind == "tool_result":
            yield place.error(n, "a tool_result block belongs in a user message")
        elif speaker == "assistant" and kind in _USER_ONLY:
            yield place.warning(n, f"a {kind} block belongs in a user message")


def compaction_first(message: Message) -> Iterator[Finding]:
    """
    In a user's message a compaction is the first block of the first message.

    Source: Messages API documentation, Compaction, 2026-10; error_code compaction_block_misplaced.
    """
    if message.role == "user":
        for n, block in enumerate(message.blocks):
            if isinstance(block, Mapping) and block.get("type") == "compaction" and (n or message.place.message):
                yield message.place.error(n, "a compaction in a user message is the first block of the first message")


def system_extras(message: Message) -> Iterator[Finding]:
    """
    What a system message says beside its text: an effort, or until when it holds, and not both.

    Source: Messages API documentation, Mid-conversation system messages, 2026-10.
    """
    if message.role != "system":
        return
    turn = message.place.turn
    output = message.value.get("output_config")
    if "output_config" in message.value and (
        not isinstance(output, Mapping) or output.keys() != {"effort"} or output["effort"] not in (*EFFORTS, None)
    ):
        yield error(message.below("output_config"), "give {'effort': …} and nothing else", turn=turn)
    if "clear_at" not in message.value:
        return
    if message.value["clear_at"] not in ("never", "next_user_message"):
        yield error(message.below("clear_at"), "Input should be 'never' or 'next_user_message'", turn=turn)
    marked = any(isinstance(each, Mapping) and each.get("cache_control") for each in message.blocks)
    other = any(isinstance(each, Mapping) and each.get("type") != "text" for each in message.blocks)
    if marked or other or "output_config" in message.value:
        yield warning(message.below("clear_at"), "such a message holds text alone, without cache_control", turn=turn)


OF_A_MESSAGE: Final[Sequence[Callable[[Message], Iterator[Finding]]]] = (
    role,
    message_keys,
    content_not_empty,
    block_in_place,
    compaction_first,
    system_extras,
)


def check_shape(message: Message) -> list[Finding]:
    """Hold a caller's message, and every block in it, to the rules of their shapes."""
    found = [finding for rule in OF_A_MESSAGE for finding in named(rule, rule(message))]
    return found + check_blocks(message.blocks, message.place)
