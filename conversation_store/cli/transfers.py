"""Out of one store and into another: the commands ``export`` and ``import``."""

from __future__ import annotations

import os
import shutil
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, Final

import click

from conversation_store import imports
from conversation_store.cli.databases import database_options, find, key_argument, to_read, to_write
from conversation_store.cli.evidence import Wanted, evidence_options, write_evidence
from conversation_store.cli.failures import Code
from conversation_store.cli.terminal import Progress, Screen, complain
from conversation_store.errors import CodecError, TransferError
from conversation_store.formats import jsonl
from conversation_store.formats.wording import counted, size
from conversation_store.imports import Imported
from conversation_store.store import Store
from conversation_store.transfer import FORMS, Export, Taken

_IN_MEMORY: Final = 8 * 1024 * 1024


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


def _chosen(store: Store, which: str | None, form: str, *, verdict: bool) -> Export:
    if verdict and form != "html":
        raise click.UsageError("--verdict goes with --format html")
    if which is not None:
        return find(store, which).export(form, verdict=verdict)  # type: ignore[arg-type]
    if form != "jsonl":
        raise click.UsageError(f"--format {form} is of one conversation: give its KEY")
    return store.export()


@click.command("export")
@key_argument("which", metavar="[KEY|ID]", required=False)
@click.option("--format", "form", type=click.Choice(FORMS), default="jsonl", show_default=True, help="As what.")
@click.option("--output", metavar="FILE", help="Where to; standard output without it.")
@click.option("--verdict", is_flag=True, help="With html: verify it, and say on top what was found; exit code 1.")
@evidence_options
@database_options
def export(
    which: str | None,
    form: str,
    output: str | None,
    *,
    verdict: bool,
    evidence: bool,
    database: str,
    scope: str,
    **wanted: Any,
) -> int:
    """
    Write a conversation for elsewhere; without KEY all of them, as jsonl.

    jsonl: everything, for import. messages: the API's array. batch: a line of the Message Batches API. openai: chat
    completions. markdown and html: a transcript to read. On a terminal, characters that it would obey are spelled out.

    --evidence: a zip for an auditor; python -m conversation_store.audit.verify checks it.
    """
    screen = Screen()
    bundle = Wanted(**wanted)
    if evidence:
        return _evidence(screen, which, output, bundle, database=database, scope=scope)
    if not bundle.is_plain:
        raise click.UsageError("--reveal, --requests, --why and --pin go with --evidence")
    with to_read(database, scope) as store, Progress() as progress:
        pieces = _chosen(store, which, form, verdict=verdict)
        written = 0
        if output is not None:
            with file_to_write(output) as file:
                for piece in pieces:
                    file.write(piece)
                    written += len(piece)
                    progress.show(f"{size(written)} written", pieces.share)
        elif screen.is_terminal:
            flow, decoder = screen.flow(), getincrementaldecoder("utf-8")("backslashreplace")
            for piece in pieces:
                flow.write(decoder.decode(piece))
            flow.end()
        else:
            for piece in pieces:
                screen.raw(piece)
                written += len(piece)
                progress.show(f"{size(written)} written", pieces.share)
    if pieces.lost:
        complain(f"{form} has no place for: {', '.join(f'{what} ({n})' for what, n in pieces.lost.items())}")
    return Code.FINDING if pieces.faults else Code.DONE


def _evidence(
    screen: Screen, which: str | None, output: str | None, wanted: Wanted, *, database: str, scope: str
) -> int:
    if which is None or output is None:
        raise click.UsageError("--evidence is of one conversation, in a file: give KEY and --output FILE")
    with to_read(database, scope) as store, file_to_write(output) as file:
        write_evidence(screen, find(store, which), file, wanted)  # type: ignore[arg-type]
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
@click.option("--from", "form", type=click.Choice(imports.FORMS), help="Whose form it has; found out without it.")
@click.option("--key", help="The name of the conversation, where FILE has one; made of its text or id without it.")
@click.option("--prefix", help="What keys begin with, before the source's own ids; the form and a colon without it.")
@click.option("--system", is_flag=True, help="Take another program's system messages too, as turns.")
@database_options
def import_(
    file: BinaryIO, form: str | None, key: str | None, prefix: str | None, *, system: bool, database: str, scope: str
) -> int:
    """
    Read what export wrote, messages or a request's body, or another program's transcripts; - is standard input.

    Again it adds nothing. What cannot be taken is told place by place, and exit code 1; the rest is taken.
    """
    screen = Screen()
    with to_write(database, scope, None) as store, Progress() as progress, _again(file) as source:
        first = source.readline()
        if form is None and _is_ours(first):
            return _told(screen, *_loaded(store, _lines(first, source, progress)))
        source.seek(0)
        if form is None and _is_plain(source):
            named = getattr(file, "name", None)
            name = Path(named).name if isinstance(named, str) and not named.startswith("<") else ""
            return _told(screen, *_messages(store, source, key, name))
        whole = size(source.seek(0, os.SEEK_END))
        try:
            report = store.import_from(
                source,
                form,
                key=key,
                prefix=prefix,
                system=system,
                progress=lambda read: progress.show(f"{size(read)} of {whole} read"),
            )
        except CodecError as error:
            raise click.ClickException(str(error)) from None
    return _report(screen, report)


@contextmanager
def _again(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a file that can be read twice."""
    if file.seekable():
        yield file
        return
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy  # type: ignore[misc]


def _is_plain(source: BinaryIO) -> bool:
    """Say whether a file is to be read as messages in the API's shape, whatever else it may be."""
    try:
        forms = imports.forms_of(source)
    except CodecError:
        forms = ()
    source.seek(0)
    return not forms or "messages" in forms


def _loaded(store: Store, lines: Iterator[bytes]) -> tuple[Sequence[Taken], list[str]]:
    try:
        return store.load(lines), []
    except TransferError as error:
        return error.taken or (), [str(fault) for fault in error.faults]


def _messages(store: Store, source: BinaryIO, key: str | None, name: str) -> tuple[Sequence[Taken], list[str]]:
    try:
        return [store.import_messages(source.read(), key=key, source=name)], []
    except CodecError as error:
        raise click.ClickException(f"this is neither an export nor messages: {error}") from None
    except TransferError as error:
        return error.taken or (), [str(fault) for fault in error.faults]


def _told(screen: Screen, taken: Sequence[Taken], faults: list[str]) -> int:
    for fault in faults:
        complain(fault)
    new = sum(each.added for each in taken)
    said = f"{counted(len(taken), 'conversation')} taken, {new:,} {'entry' if new == 1 else 'entries'} new"
    screen.line(said, (f", {counted(len(faults), 'fault')}", "red") if faults else "")
    _names(screen, taken)
    return Code.FINDING if faults else Code.DONE


def _report(screen: Screen, report: Imported) -> int:
    for each in report.refused:
        complain(str(each))
    if report.more:
        complain(f"and {report.more:,} more")
    refused = len(report.refused) + report.more
    said = (
        f"{counted(len(report.taken), 'conversation')} of {report.form} taken, "
        f"{counted(report.added, 'turn')} new, {report.here:,} here already"
    )
    screen.line(said, (f", {refused:,} refused", "red") if refused else "")
    if report.left_out:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in report.left_out.items())
        screen.line((f"left out: {kinds}", "dim"))
    _names(screen, report.taken)
    return Code.FINDING if refused else Code.DONE


def _names(screen: Screen, taken: Sequence[Taken]) -> None:
    for each in taken:
        if each.added:
            screen.line((f"{each.id}  ", "dim"), each.key or "-")
