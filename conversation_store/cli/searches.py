"""Finding what was said: the command ``search``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import click

from conversation_store.cli.databases import database_options, to_read
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Piece, Screen, complain, one_line
from conversation_store.formats.wording import counted, moment
from conversation_store.record.turns import Origin
from conversation_store.store import Hit

_DAYS: Final = click.DateTime(("%Y-%m-%d",))


@click.command("search")
@click.argument("text")
@database_options
@click.option("--role", type=click.Choice(("user", "assistant", "system")), help="Only turns of this role.")
@click.option("--origin", type=click.Choice([each.value for each in Origin]), help="Only turns made by this one.")
@click.option("--model", metavar="ID", help="Only turns that this model wrote.")
@click.option("--since", type=_DAYS, metavar="DAY", help="From this day on, UTC.")
@click.option("--until", type=_DAYS, metavar="DAY", help="Before this day, UTC.")
@click.option("--key-prefix", metavar="TEXT", help="Only in conversations whose key begins so.")
@click.option("--best", is_flag=True, help="The best first, instead of the newest.")
@click.option("--query", is_flag=True, help='Read TEXT as a query: words, "a phrase", -without, this OR that, begin*.')
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many at most.")
@click.option("--after", metavar="CURSOR", help="Go on after a page, with what it said at its end.")
def search(
    text: str,
    database: str,
    scope: str,
    since: datetime | None,
    until: datetime | None,
    *,
    best: bool,
    query: bool,
    **options: Any,
) -> int:
    """
    Find TEXT, a literal phrase, in turns and titles: when, where, who, and the words around it.

    What was said since the last search is read first. Give `--` before a text that begins with a dash.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        hits = store.search(
            text,
            since=since and since.date(),
            until=until and until.date(),
            order="best" if best else "newest",
            syntax="query" if query else "phrase",
            **options,
        )
    for hit in hits:
        _print_hit(screen, hit)
    screen.flush()
    if not hits:
        complain("nothing was found")
    elif len(hits) == options["limit"]:
        complain(f"these are {len(hits)} at most; go on with --after {hits[-1].cursor}")
    if hits.behind:
        complain(f"{counted(hits.behind, 'newer entry')} cannot be found yet; search again, or run db reindex")
    return Code.DONE


def _print_hit(screen: Screen, hit: Hit) -> None:
    name = one_line(hit.key) if hit.key is not None else str(hit.conversation)
    who = "title" if hit.role is None else f"{one_line(hit.role)}, {one_line(hit.origin or '')}"
    screen.line((name, "bold"), (f"  entry {hit.position}  {who}  {moment(hit.at)}", "dim"))
    pieces: list[Piece] = []
    at = 0
    for start, length in hit.marks:
        pieces += [hit.snippet[at:start], (hit.snippet[start : start + length], "bold yellow")]
        at = start + length
    screen.paragraph(*pieces, hit.snippet[at:], indent=4)
