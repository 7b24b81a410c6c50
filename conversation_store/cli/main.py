"""Where the script ``conversation-store`` begins: it runs the commands, or says which extra is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

try:
    from conversation_store.cli.commands import commands
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in {"click", "rich"}:
        raise
    commands = None  # type: ignore[assignment]

MISSING_EXTRA = "conversation-store: the command line is an extra; run: pip install 'conversation_store[cli]'\n"


def run(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: Those after the program's name; the process's own without them.

    Returns:
        The exit code: 0 done, 1 a finding, 2 usage, 3 not found, 4 database, 5 API, 130 interrupted.
    """
    if commands is None:
        sys.stderr.write(MISSING_EXTRA)
        return 2
    return commands.execute(arguments)
