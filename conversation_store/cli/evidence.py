"""Evidence from the command line: ``export --evidence``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, TypeVar

import click
from attrs import field, frozen

from conversation_store.audit.bundle import REQUESTS, Requests
from conversation_store.audit.evidence import Evidence
from conversation_store.cli.terminal import Screen
from conversation_store.conversation import Conversation
from conversation_store.errors import CodecError, ContentError
from conversation_store.formats.wording import counted, size

_RUN: Final = re.compile(r"([0-9]{1,10})(?:\.\.([0-9]{1,10}))?")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Runs(click.ParamType[range]):
    """Positions on a command line: ``3`` or ``3..9``, both included."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Read them; a usage error where they are none."""
        found = value if isinstance(value, range) else _RUN.fullmatch(value)
        if isinstance(found, range):
            return found
        if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
            self.fail(f"{value!r} is neither a position nor positions such as 3..9", param, ctx)
        return range(int(found[1]), int(found[2] or found[1]) + 1)


@frozen(kw_only=True)
class Wanted:
    """
    What a bundle is asked to show.

    Attributes:
        reveal: Positions, in pieces; none for all.
        requests: Of which exchanges the bodies are put in.
        why: Why it is made.
        pin: A checkpoint of the seals to go on from.
    """

    reveal: Sequence[range] = field(default=())
    requests: Requests = "all"
    why: str | None = None
    pin: BinaryIO | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing was asked for."""
        return self == Wanted()


def evidence_options(command: _Command) -> _Command:
    """Give a command the options of a bundle."""
    for option in (
        click.option(
            "--pin", type=click.File("rb"), metavar="FILE", help="With --evidence: go on from this checkpoint."
        ),
        click.option("--why", metavar="TEXT", help="With --evidence: why it is made; nothing proves it."),
        click.option(
            "--requests",
            type=click.Choice(REQUESTS),
            default="all",
            show_default=True,
            help="With --evidence: which bodies of requests.",
        ),
        click.option(
            "--reveal", type=_Runs(), multiple=True, metavar="3..9", help="With --evidence: show these entries alone."
        ),
        click.option("--evidence", is_flag=True, help="A zip that proves what it shows, without the database."),
    ):
        command = option(command)
    return command


def write_evidence(screen: Screen, conversation: Conversation, file: BinaryIO, wanted: Wanted) -> None:
    """Write a bundle, and say what is in it."""
    reveal = None
    if wanted.reveal:
        last = max(run[-1] for run in wanted.reveal)
        if last >= conversation.version:
            raise ContentError("reveal", f"{last} is no position of this log: give 0 to {conversation.version - 1}")
        reveal = frozenset(position for run in wanted.reveal for position in run)
    try:
        written = conversation.evidence(
            file,
            reveal=reveal,
            requests=wanted.requests,
            why=wanted.why,
            pin=None if wanted.pin is None else wanted.pin.read(),
        )
    except CodecError as error:
        raise click.ClickException(str(error)) from None
    for line in _told(written):
        screen.line(line)


def _told(written: Evidence) -> Iterator[str]:
    yield f"{written.revealed:,} of {written.entries:,} entries revealed, {size(written.size)}"
    yield f"{counted(len(written.requests), 'request')}, {counted(len(written.responses), 'response')} as received"
    yield f"head {written.head.hex()}"
    yield (
        f"a checkpoint covers the first {written.sealed:,}"
        if written.sealed
        else "no checkpoint covers it: keep the head elsewhere, or seal"
    )
