"""The commands, and what they share: one line for an error, exit codes, quiet when the reader goes away."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from conversation_store.cli.audits import timeline, verify
from conversation_store.cli.chat import chat
from conversation_store.cli.checks import check
from conversation_store.cli.costs import models, usage
from conversation_store.cli.databases import db
from conversation_store.cli.demo import demo, resume_demo
from conversation_store.cli.erasures import erase, hold, release, retain
from conversation_store.cli.failures import Code, code_of, told
from conversation_store.cli.reports import audit
from conversation_store.cli.seals import prove, seal
from conversation_store.cli.searches import search
from conversation_store.cli.terminal import PROGRAM, complain, silence
from conversation_store.cli.transcripts import listing, replay, show
from conversation_store.cli.transfers import export, import_
from conversation_store.cli.views import fork, rewind
from conversation_store.errors import ConversationStoreError

VERSION: str = sys.modules["conversation_store"].__version__


class Commands(click.Group):
    """A group whose errors are one line each, whoever runs it."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run a command and end the process, or the test."""
        sys.exit(self.execute(args))

    def execute(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command and return its exit code."""
        for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
            # A byte that is no text must be an error of its line or a visible escape, never a traceback.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=errors)
        try:
            code = super().main(
                None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False
            )
            sys.stdout.flush()
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else PROGRAM
            complain(f"{error.format_message().rstrip('.')}; see {path} --help")
            return Code.USAGE
        except click.ClickException as error:
            complain(error.format_message())
            return Code.USAGE
        except ConversationStoreError as error:
            complain(told(error))
            return code_of(error)
        except (click.Abort, KeyboardInterrupt):
            return Code.INTERRUPTED
        except (BrokenPipeError, SystemExit):
            # click ends the process itself for one reason alone: whoever read our output has gone.
            silence(sys.stdout)
            return Code.NO_READER
        return code if isinstance(code, int) else Code.DONE


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 a finding (check, verify, seal, db check, demo, replay, import, models --refresh), "
    "2 usage or configuration, 3 not found, 4 database or record, 5 API, 130 interrupted, 141 the output's reader "
    "went away.",
)
@click.version_option(VERSION, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """Conversations of the Messages API, kept in a database: hold them, read them, prove them."""


_COMMANDS = (
    demo,
    resume_demo,
    chat,
    listing,
    search,
    show,
    check,
    fork,
    rewind,
    verify,
    audit,
    timeline,
    seal,
    prove,
    replay,
    export,
    import_,
    usage,
    models,
    erase,
    retain,
    hold,
    release,
    db,
)
for _command in _COMMANDS:
    commands.add_command(_command)
