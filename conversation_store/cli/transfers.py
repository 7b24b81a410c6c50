"""Out of one store and into another: the commands ``export`` and ``import``."""

from __future__ import annotations

import os
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO

import click

from conversation_store.cli.databases import database_options, find, key_argument, to_read, to_write
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Progress, Screen, complain
from conversation_store.errors import CodecError, TransferError
from conversation_store.formats import jsonl
from conversation_store.formats.wording import counted, size
from conversation_store.store import Store
from conversation_store.transfer import FORMS, Export, Taken


@contextmanager
def file_to_write(path: str) -> Iterator[IO[bytes]]:
    """Give a file to write that takes its name once it is whole; nobody else may read it."""
    part = Path(f"{path}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _chosen(store: Store, which: str | None, form: str) -> Iterator[bytes]:
    if which is not None:
        return find(store, which).export(form)  # type: ignore[arg-type]
    if form != "jsonl":
        raise click.UsageError(f"--format {form} is of one conversation: give its KEY")
    return store.export()


@click.command("export")
@key_argument("which", metavar="[KEY|ID]", required=False)
@click.option("--format", "form", type=click.Choice(FORMS), default="jsonl", show_default=True, help="As what.")
@click.option("--output", metavar="FILE", help="Where to; standard output without it.")
@database_options
def export(which: str | None, form: str, output: str | None, database: str, scope: str) -> int:
    """
    Write a conversation for elsewhere; without KEY all of them, as jsonl.

    jsonl: everything, for import. messages: the API's array. batch: a line of the Message Batches API. openai: chat
    completions. markdown and html: a transcript to read. On a terminal, characters that it would obey are spelled out.
    """
    screen = Screen()
    with to_read(database, scope) as store, Progress() as progress:
        pieces = _chosen(store, which, form)
        written = 0
        if output is not None:
            with file_to_write(output) as file:
                for piece in pieces:
                    file.write(piece)
                    written += len(piece)
                    progress.show(f"{size(written)} written")
        elif screen.is_terminal:
            flow, decoder = screen.flow(), getincrementaldecoder("utf-8")("backslashreplace")
            for piece in pieces:
                flow.write(decoder.decode(piece))
            flow.end()
        else:
            for piece in pieces:
                screen.raw(piece)
                written += len(piece)
                progress.show(f"{size(written)} written")
    if isinstance(pieces, Export) and pieces.lost:
        complain(f"{form} has no place for: {', '.join(f'{what} ({n})' for what, n in pieces.lost.items())}")
    return Code.DONE


def _lines(first: bytes, file: BinaryIO, progress: Progress) -> Iterator[bytes]:
    read = 0
    for line in chain([first], file):
        read += len(line)
        progress.show(f"{size(read)} read")
        yield line


def _is_ours(first: bytes) -> bool:
    try:
        return isinstance(jsonl.read(first), jsonl.Opening)
    except CodecError:
        return False


@click.command("import")
@click.argument("file", type=click.File("rb"), metavar="FILE")
@click.option("--key", help="The name of the conversation that messages become; made of their text without it.")
@database_options
def import_(file: BinaryIO, key: str | None, database: str, scope: str) -> int:
    """
    Read what export wrote, or an array of messages or a request's body as JSON; a FILE of - is standard input.

    Again it adds nothing. What cannot be taken is told line by line, and exit code 1; the rest is taken.
    """
    screen = Screen()
    faults: list[str] = []
    with to_write(database, scope, None) as store, Progress() as progress:
        first = file.readline()
        try:
            if _is_ours(first):
                taken = list(store.load(_lines(first, file, progress)))
            else:
                name = getattr(file, "name", None)
                source = Path(name).name if isinstance(name, str) and name != "<stdin>" else ""
                taken = [store.import_messages(first + file.read(), key=key, source=source)]
        except CodecError as error:
            raise click.ClickException(f"this is neither an export nor messages: {error}") from None
        except TransferError as error:
            faults = [str(fault) for fault in error.faults]
            taken = list(error.taken or ())
    for fault in faults:
        complain(fault)
    _print(screen, taken, faults)
    return Code.FINDING if faults else Code.DONE


def _print(screen: Screen, taken: list[Taken], faults: list[str]) -> None:
    new = sum(each.added for each in taken)
    said = f"{counted(len(taken), 'conversation')} taken, {new:,} {'entry' if new == 1 else 'entries'} new"
    screen.line(said, (f", {counted(len(faults), 'fault')}", "red") if faults else "")
    for each in taken:
        if each.added:
            screen.line((f"{each.id}  ", "dim"), each.key or "-")
