"""
Replies: an answer of the API as its caller sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from conversation_store.errors import CodecError, UnfitReplyError
from conversation_store.record import canonical
from conversation_store.record.blocks import Block, Text, ToolUse
from conversation_store.record.canonical import JSON
from conversation_store.record.codec import blocks_of
from conversation_store.record.exchange import Exchange, Usage
from conversation_store.record.turns import Turn

_UNFIT: Final = frozenset({"refusal", "max_tokens", "model_context_window_exceeded", "pause_turn"})


@frozen(kw_only=True)
class Reply:
    """
    What came back, saved before anybody sees it.

    Attributes:
        exchange: The exchange it ends.
        turn: The model's turn; None where nothing was appended (a refusal, an empty answer).
        fields: Every message-level field as received (``id``, ``model``, ``stop_details`` …), parsed.
        raw_content: The ``content`` array's bytes as received.
        before: The answers before a pause that this one goes on from (``pause_turn``), oldest first.
    """

    exchange: Exchange
    turn: Turn | None
    fields: Mapping[str, Any] = field(repr=False)
    raw_content: bytes = field(repr=False)
    before: tuple[Reply, ...] = field(default=(), repr=False)

    @property
    def content(self) -> tuple[Block, ...]:
        """The blocks the model wrote, those before a pause first; a prefill is not among them."""
        earlier = tuple(block for each in self.before for block in each.content)
        return (*earlier, *blocks_of(canonical.loads(self.raw_content)))

    @property
    def text(self) -> str:
        """The words the model wrote; a prefill's are in ``turn.text`` only."""
        return "".join(block.text for block in self.content if isinstance(block, Text))

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped, as the API says it."""
        return self.exchange.stop_reason

    @property
    def refused(self) -> bool:
        """Whether the model declined; then there is no turn, and another model may be asked with ``retry``."""
        return self.stop_reason == "refusal"

    @property
    def usage(self) -> Usage:
        """The tokens, as the API counted them."""
        return self.exchange.usage

    @property
    def tool_uses(self) -> tuple[ToolUse, ...]:
        """The calls of the caller's tools, to be answered with ``tool_result``; none that was cut off or left out."""
        turns = [each.turn for each in (*self.before, self) if each.turn is not None]
        return tuple(block for turn in turns for block in turn.content if isinstance(block, ToolUse))

    @property
    def applied_edits(self) -> tuple[Mapping[str, Any], ...]:
        """
        What the server left out of its own copy of the history, and how much (``context_management``).

        Source: Messages API documentation, Context editing, 2026-10.
        """
        told = self.fields.get("context_management")
        edits = told.get("applied_edits") if isinstance(told, Mapping) else None
        return tuple(each for each in edits if isinstance(each, Mapping)) if isinstance(edits, list) else ()

    def json(self) -> JSON:
        """
        Read the words as JSON, for ``output_config.format``.

        Raises:
            UnfitReplyError: The model refused, a limit cut the answer off, or the words are no JSON.
        """
        if self.stop_reason in _UNFIT:
            raise UnfitReplyError(self.stop_reason, f"the answer ended by {self.stop_reason}: it need not be whole")
        # What is joined to a prefill is JSON only with it.
        words = self.turn.text if self.turn is not None and b'"ours"' in self.turn.header else self.text
        try:
            return canonical.loads(words.encode())
        except (CodecError, UnicodeEncodeError) as error:
            raise UnfitReplyError(self.stop_reason, f"the answer is no JSON: {error}") from None
