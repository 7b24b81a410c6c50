"""Seals from the command line: keys, sealing, and the proof of one conversation: ``seal`` and ``prove``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from conversation_store.audit.anchors import Anchor, CommandAnchor, FileAnchor, HTTPAnchor
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.sealing import Seals
from conversation_store.cli.databases import database_options, existing, find, key_argument, to_read, url_of
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Screen, complain, one_line
from conversation_store.formats.wording import counted
from conversation_store.store import Store

_PATH = click.Path(path_type=Path)


@click.command("seal")
@database_options
@click.option(
    "--key", type=_PATH, envvar="CONVERSATION_STORE_SEAL_KEY", show_envvar=True, help="The signing key's file."
)
@click.option(
    "--memory",
    type=_PATH,
    envvar="CONVERSATION_STORE_SEAL_MEMORY",
    show_envvar=True,
    help="A file outside the database: what was signed last.",
)
@click.option("--origin", metavar="NAME", help="The log's name; that of the key without it.")
@click.option("--anchor", "files", type=_PATH, multiple=True, help="Append the checkpoint to this file. Repeatable.")
@click.option("--anchor-url", "urls", metavar="URL", multiple=True, help="PUT it there. Repeatable.")
@click.option("--anchor-command", "programs", metavar="COMMAND", multiple=True, help="Give it to this. Repeatable.")
@click.option("--new-epoch", is_flag=True, help="Begin a new log, after a backup was restored on purpose.")
@click.option("--trusted", type=_PATH, help="With --new-epoch: the last checkpoint that is trusted.")
@click.option("--generate-key", "fresh", type=_PATH, help="Only make a key in this new file; print what checks it.")
@click.option("--name", metavar="NAME", help="With --generate-key: the key's name, like example.com/bot.")
@click.option("--verifier-key", is_flag=True, help="Only print what checks the signatures of --key.")
def seal(  # noqa: PLR0917 - click names them all
    database: str,
    scope: str,
    key: Path | None,
    memory: Path | None,
    origin: str | None,
    files: tuple[Path, ...],
    urls: tuple[str, ...],
    programs: tuple[str, ...],
    trusted: Path | None,
    fresh: Path | None,
    name: str | None,
    *,
    new_epoch: bool,
    verifier_key: bool,
) -> int:
    """
    Seal what every conversation of the database is now, of all scopes; print the checkpoint.

    Keep what is printed where nobody can write who can write the database: verify --pin holds a later look against it.
    Run it from time to time; where nothing is new, that is sealed once a minute.
    """
    screen = Screen()
    if fresh is not None:
        if name is None:
            raise click.UsageError("--generate-key needs --name: example.com/bot")
        made = SigningKey.generate(name)
        verifier = str(made.verifier)  # first, for want of the extra is said before a file is made
        made.write(fresh)
        screen.data(verifier)
        return Code.DONE
    if verifier_key:
        if key is None:
            raise click.UsageError("--verifier-key needs --key")
        screen.data(str(SigningKey.read(key).verifier))
        return Code.DONE
    anchors: list[Anchor] = [*map(FileAnchor, files), *map(HTTPAnchor, urls)]
    anchors += [CommandAnchor(shlex.split(each)) for each in programs]
    given = Seals(key=key, memory=memory, origin=origin, anchors=tuple(anchors))
    with Store(existing(url_of(database)), scope=scope, seal=given) as store:
        made_seal = store.seal(new_epoch=new_epoch, trusted=None if trusted is None else _text(trusted))
    if made_seal.note is None:
        complain("there is nothing to seal")
        return Code.DONE
    _print(screen, made_seal.note)
    complain(f"{counted(made_seal.added, 'seal')} added, {made_seal.size:,} in all")
    for anchor, why in made_seal.failed.items():
        complain(f"not taken by {one_line(anchor)}: {one_line(why)}")
    return Code.FINDING if made_seal.failed else Code.DONE


def _print(screen: Screen, text: str) -> None:
    """Print lines that stay whole, so that they can be taken from a terminal too."""
    for line in text.splitlines():
        screen.data(line)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise click.UsageError(f"{path} cannot be read") from None


@click.command("prove")
@key_argument("which")
@database_options
def prove(which: str, database: str, scope: str) -> int:
    """
    Write a proof of what a conversation was at its newest seal, for whoever has the verifier key.

    It is a tlog-proof of C2SP; keep it as FILE.tlog-proof.
    """
    screen = Screen()
    with to_read(database, scope) as store:
        proof = store.prove(find(store, which).id)
    _print(screen, proof)
    return Code.DONE
