"""
What the API would refuse, found before anything is written: one function a rule, all findings at once.

Rules look at messages and parameters as JSON values. What came from the API always has the right shape: only a
caller's words are held to the rules of blocks. A rule that is not certain warns instead of stopping. Texts and
paths follow the API's own. Rules are grouped by what they look at:

- ``blocks``: one block, by its type; ``messages``: one message;
- ``order``: messages one after the other, each looked at once;
- ``settings`` and ``tools``: the parameters; ``whole``: limits, and parameters and messages together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final

from attrs import evolve

from conversation_store.api.rules.asked import Asked
from conversation_store.api.rules.blocks import OF_A_BLOCK, block_type, text_not_blank
from conversation_store.api.rules.findings import Finding, Fix
from conversation_store.api.rules.messages import OF_A_MESSAGE, check_shape, message_of
from conversation_store.api.rules.order import OF_THE_ORDER
from conversation_store.api.rules.places import Place
from conversation_store.api.rules.settings import OF_THE_SETTINGS
from conversation_store.api.rules.tools import OF_THE_TOOLS, references_defined
from conversation_store.api.rules.whole import OF_THE_WHOLE, is_open_ended

__all__ = ("BOOK", "Asked", "Finding", "Fix", "check_message", "check_parameters", "check_request")

_OF_PARAMETERS: Final[Sequence[Callable[[Asked], Any]]] = (*OF_THE_SETTINGS, *OF_THE_TOOLS)
_OF_BOTH: Final[Sequence[Callable[[Asked], Any]]] = (references_defined, *OF_THE_WHOLE)

BOOK: Final[Mapping[str, Callable[..., Any]]] = {
    rule.__name__: rule
    for rules in (
        (block_type, text_not_blank),
        *OF_A_BLOCK.values(),
        OF_A_MESSAGE,
        *OF_THE_ORDER.values(),
        _OF_PARAMETERS,
        _OF_BOTH,
    )
    for rule in rules
}
"""Every rule by its name."""


_REFUSED_SINCE: Final = dict.fromkeys(("calls_answered", "results_asked_for"), date(2025, 1, 1))
"""
Rules that the API did not hold requests to from its beginning, and since when it surely has.

Source: recorded exchanges of 2024, in which a result with a foreign id was taken.
"""


def check_message(message: Mapping[str, Any], path: str = "") -> list[Finding]:
    """
    Look at one message of a caller's by itself.

    Args:
        message: In the API's shape.
        path: What leads to it in a finding: ``messages.3.``, with the dot; empty for a message alone.
    """
    plain = isinstance(message.get("content"), str)
    return check_shape(message_of(message, Place(f"{path}content", str(message.get("role")), plain=plain)))


def check_parameters(asked: Asked) -> list[Finding]:
    """Look at a request's parameters alone, whatever its messages: what is found stands until one of them changes."""
    return [evolve(each, rule=rule.__name__) for rule in _OF_PARAMETERS for each in rule(asked)]


def check_request(asked: Asked, parameters: Sequence[Finding] | None = None) -> list[Finding]:
    """
    Look at a request: what is wrong with its messages, its parameters, and both together.

    A final assistant message may be empty: the API says so itself where it refuses any other.

    Args:
        asked: The request.
        parameters: What ``check_parameters`` says of it, where that is known already.
    """
    final = f"messages.{asked.outline.count - 1}.content" if is_open_ended(asked) else None
    said = (each for each in asked.outline.all_findings if (each.rule, each.path) != ("content_not_empty", final))
    found = [*said, *(check_parameters(asked) if parameters is None else parameters)]
    found += [evolve(each, rule=rule.__name__) for rule in _OF_BOTH for each in rule(asked)]
    return [
        evolve(finding, severity="warning") if asked.on < _REFUSED_SINCE.get(finding.rule, asked.on) else finding
        for finding in found
    ]
