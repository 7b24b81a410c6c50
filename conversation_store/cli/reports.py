"""A conversation for whoever has to answer for it: the command ``audit``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import BinaryIO, Final

import click
from attrs import Factory, define

from conversation_store.audit.faults import NOBODY, Fault
from conversation_store.audit.timeline import TimelineEntry
from conversation_store.cli.costs import money
from conversation_store.cli.databases import database_options, find, key_argument, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Screen, one_line
from conversation_store.cli.transcripts import CLOSING, OPENING, exchange_line, fault_line, name_of, print_turn
from conversation_store.conversation import Conversation
from conversation_store.errors import CodecError
from conversation_store.formats.wording import counted, moment
from conversation_store.record.exchange import Exchange, State
from conversation_store.record.turns import Origin

_MARGIN: Final = 6
_SUMS: Final = 20
_SAID_BY: Final[Mapping[Origin, str]] = {
    Origin.HUMAN: "by people",
    Origin.MODEL: "by the model",
    Origin.SYNTHETIC: "put in its place by the program",
    Origin.PREFILL: "put in the model's mouth",
    Origin.TOOL: "results of tools",
    Origin.SYSTEM: "instructions of the program",
    Origin.SUMMARY: "summaries",
    Origin.IMPORTED: "brought from elsewhere",
}


@define
class _Sums:
    """What a report adds up while it is printed."""

    turns: Counter[Origin] = Factory(Counter)
    apart: list[int] = Factory(list)
    erased: list[int] = Factory(list)
    states: Counter[State] = Factory(Counter)
    again: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, each: TimelineEntry) -> None:
        """Take an entry in."""
        if each.erased:
            self.erased.append(each.position)
        if each.origin is None:
            return
        self.turns[each.origin] += 1
        if not each.shown and each.origin is not Origin.PREFILL:
            self.apart.append(each.position)

    def add_exchange(self, exchange: Exchange) -> None:
        """Take a request in."""
        self.states[exchange.state] += 1
        self.again += exchange.retry_of is not None
        self.cost += exchange.cost.total if exchange.cost is not None else 0
        self.unpriced += exchange.cost is None or bool(exchange.unpriced)


@click.command("audit")
@key_argument("which")
@click.option("--full", is_flag=True, help="Unfold thinking, tool calls and results.")
@click.option("--key", metavar="KEY", multiple=True, help="The seals' verifier key (name+id+base64).")
@click.option("--pin", type=click.File("rb"), metavar="FILE", help="A checkpoint of the seals kept elsewhere.")
@database_options
def audit(which: str, key: tuple[str, ...], pin: BinaryIO | None, *, full: bool, database: str, scope: str) -> int:
    """
    Tell all that a conversation's record holds, for a person to read, and whether anybody has changed it since.

    Every entry in its order: who said what and who made it, what is in the record and no longer sent, every request,
    what became of it and what it cost, what was erased, by whom and why; then the sums and the verdict. Exit code 1
    where a fault is found. Seals are looked at where --key or --pin is given.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        conversation = find(store, which)
        found = conversation.verify(key=key, pin=None if pin is None else pin.read())
        _print_cover(screen, conversation)
        report = _Report(screen, conversation, found, full=full)
        report.tell()
        screen.line()
        for name, value in _summed(report.sums):
            screen.item(name, value, indent=_SUMS)
        for fault in report.left:
            name = "the log of seals" if fault.conversation == NOBODY else name_of(conversation)
            screen.line((fault_line(name, fault), "bold red"))
        requests = report.sums.states.total()
        _print_verdict(screen, conversation, len(found), requests, sealed=bool(key or pin))
    return Code.FINDING if found else Code.DONE


def _print_cover(screen: Screen, conversation: Conversation) -> None:
    title = [f"  {one_line(conversation.title)}"] if conversation.title else []
    screen.line((name_of(conversation), "bold"), *title)
    screen.line((f"conversation {conversation.id}, {conversation.version:,} entries", "dim"))
    screen.line(
        (f"{OPENING} {CLOSING} words put in the model's mouth; times are UTC, by the clock of the writer", "dim")
    )
    screen.line()


class _Report:
    """
    The record, entry by entry, with what was found at each; one that cannot be read does not hide the next.

    Attributes:
        sums: What was added up on the way.
    """

    def __init__(self, screen: Screen, conversation: Conversation, found: Sequence[Fault], *, full: bool) -> None:
        self.sums = _Sums()
        self._screen = screen
        self._conversation = conversation
        self._found = list(found)
        self._full = full
        self._exchanges: dict[int, Exchange] = {}

    @property
    def left(self) -> Sequence[Fault]:
        """What was found at no entry that was told."""
        return self._found

    def tell(self) -> None:
        """Print it."""
        position, end = 0, self._conversation.version
        try:
            self._exchanges = {exchange.position: exchange for exchange in self._conversation.exchanges}
        except CodecError as error:
            self._screen.line((f"the requests cannot be read: {error}", "bold red"))
        while position < end:
            try:
                for each in self._conversation.timeline(position):
                    position = each.position
                    self._entry(each)
                    self._faults(position)
                    position += 1
            except CodecError as error:
                self._screen.line((f"{position}  {error}", "bold red"))
                self._faults(position)
            position += 1

    def _entry(self, each: TimelineEntry) -> None:
        self.sums.add(each)
        if each.turn is None:
            style = "bold yellow" if each.erased or each.kind == "erased" else "dim"
            self._screen.line((f"{each.position}  ", "dim"), (each.account, style), (f"  {moment(each.at)}", "dim"))
        else:
            if not each.shown and each.origin is not Origin.PREFILL:
                self._screen.line((f"{'':{_MARGIN}}in the record, not sent any more:", "yellow"))
            print_turn(self._screen, each.turn, full=self._full, number=each.position)
        if each.kind == "request" and each.position in self._exchanges:
            _print_exchange(self._screen, self._exchanges[each.position], self.sums)

    def _faults(self, position: int) -> None:
        here = [each for each in self._found if (each.conversation, each.position) == (self._conversation.id, position)]
        for fault in here:
            self._found.remove(fault)
            self._screen.line((f"{'':{_MARGIN}}{fault_line('here', fault)}", "bold red"))


def _print_exchange(screen: Screen, exchange: Exchange, sums: _Sums) -> None:
    sums.add_exchange(exchange)
    cost = "cost not known" if exchange.cost is None else f"{money(exchange.cost.total)} USD"
    ids = "".join(f", {name} {one_line(value)}" for name, value in _ids(exchange))
    screen.line((f"{'':{_MARGIN}}→ {exchange_line(exchange)}, {cost}{ids}", "dim"))


def _ids(exchange: Exchange) -> list[tuple[str, str]]:
    ids = (("message", exchange.message_id), ("request", exchange.request_id))
    return [(name, value) for name, value in ids if value is not None]


def _summed(sums: _Sums) -> list[tuple[str, str]]:
    def places(positions: Sequence[int]) -> str:
        return ", ".join(map(str, positions)) or "none"

    said = ", ".join(f"{count} {_SAID_BY[origin]}" for origin, count in sums.turns.most_common())
    states = ", ".join(f"{count} {state.value}" for state, count in sums.states.most_common())
    again = f"; {sums.again} tried again" if sums.again else ""
    unpriced = f", and {counted(sums.unpriced, 'request')} whose cost is not known, or not whole"
    return [
        ("turns", said or "none"),
        ("not sent any more", places(sums.apart)),
        ("content erased at", places(sums.erased)),
        ("requests", f"{states}{again}" if states else "none"),
        ("cost", f"{money(sums.cost)} USD{unpriced if sums.unpriced else ''}"),
    ]


def _print_verdict(screen: Screen, conversation: Conversation, faults: int, requests: int, *, sealed: bool) -> None:
    if faults:
        changed = f"{counted(faults, 'fault')}: the record is not what was written"
        screen.item("verdict", (changed, "bold red"), indent=_SUMS)
        return
    sound = (
        f"no fault: the chain and all commitments of {conversation.version:,} entries were computed again, the bodies "
        f"of {counted(requests, 'request')} made again and held against what was sent"
    )
    screen.item("verdict", (sound, "green"), indent=_SUMS)
    without = (
        "whoever may write the database could have made all of it anew, unless a checkpoint was kept elsewhere; "
        "the seals were not looked at, for which --key is needed"
    )
    screen.item("", ("its seals are signed, and reproduced" if sealed else without, "dim"), indent=_SUMS)
