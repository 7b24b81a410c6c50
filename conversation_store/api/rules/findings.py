"""What a rule says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from attrs import evolve, frozen

Severity: TypeAlias = Literal["error", "warning"]
Fix: TypeAlias = Literal["answer_call", "set_aside", "trim", "move_system", "drop_thinking"]


@frozen
class Finding:
    """
    What a rule says about a request.

    Attributes:
        rule: The rule's name, stable.
        severity: ``error`` stops a send, ``warning`` does not.
        path: Where, as the API would say it: ``messages.3.content.1.text``.
        turn: Which of ``conversation.turns`` it is about; None for a setting, or for what is not said yet.
        message: What is wrong, in the API's words where it has some, and what would be right.
        fix: What would mend it without touching the record, where something mechanical would.
    """

    rule: str
    severity: Severity
    path: str
    turn: int | None
    message: str
    fix: Fix | None = None


def error(path: str, message: str, *, turn: int | None = None, fix: Fix | None = None) -> Finding:
    """Say what the API is certain to refuse; whoever runs the rule adds its name."""
    return Finding("", "error", path, turn, message, fix)


def warning(path: str, message: str, *, turn: int | None = None, fix: Fix | None = None) -> Finding:
    """Say what the API may refuse, or what is likely to be a mistake."""
    return Finding("", "warning", path, turn, message, fix)


def named(rule: Callable[..., object], said: Iterable[Finding]) -> list[Finding]:
    """Sign what a rule says with its name."""
    return [evolve(finding, rule=rule.__name__) for finding in said]
