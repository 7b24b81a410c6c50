"""The command line as a whole: help, exit codes, streams, and what it costs those who do not use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from conversation_store import Store, __version__
from conversation_store.cli.commands import commands
from tests.cli import terminals

NAMES = (
    "demo",
    "chat",
    "list",
    "show",
    "check",
    "verify",
    "timeline",
    "replay",
    "export",
    "import",
    "usage",
    "models",
    "db",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, env=terminals.environment(), check=False, timeout=120
    )


def test_help_names_everything() -> None:
    """Every command is listed but the one that only the demonstration calls; the exit codes are documented."""
    text = CliRunner().invoke(commands, ["--help"]).output
    assert all(f"  {name} " in text for name in NAMES)
    assert "resume-demo" not in text
    assert "Exit codes: 0 done, 1 a finding" in text
    for name in NAMES:
        assert CliRunner().invoke(commands, [name, "--help"]).exit_code == 0


def test_the_version_is_told() -> None:
    """--version says the package's own."""
    done = terminals.run("--version")
    assert done.stdout.decode() == f"conversation-store {__version__}\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["list", "--nope"], ["show"], ["replay", "k", "first"], ["db", "upgrade"], ["list", "--limit", "-1"]],
)
def test_usage_errors_are_lines(arguments: list[str]) -> None:
    """What is no command, option or argument is one line that names the help, and exit code 2."""
    done = terminals.invoke(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"conversation-store: ")
    assert b"--help" in done.stderr


def test_a_key_that_is_no_text(tmp_path: Path) -> None:
    """Bytes of the command line that are no UTF-8 cannot be a key: exit code 2, no traceback."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    Store(url).close()
    command: list[str | bytes] = [*terminals.command("show"), b"\xff", "--database", url]
    done = subprocess.run(command, capture_output=True, env=terminals.environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_the_module_runs_like_the_script() -> None:
    """``python -m conversation_store.cli`` is the same program."""
    command = [sys.executable, "-m", "conversation_store.cli", "--version"]
    done = subprocess.run(command, capture_output=True, env=terminals.environment(), check=False)
    assert (done.returncode, done.stdout) == (0, f"conversation-store {__version__}\n".encode())


@pytest.mark.parametrize("library", ["click", "rich"])
def test_a_missing_extra_is_one_line(library: str) -> None:
    """Without the extra the script says how to get it, exit code 2."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; from conversation_store.cli.main import run; sys.exit(run([]))"
    )
    done = python(code)
    assert done.returncode == 2
    assert done.stderr == (
        "conversation-store: the command line is an extra; run: pip install 'conversation_store[cli]'\n"
    )


def test_another_missing_module_is_a_bug() -> None:
    """Only a missing extra is explained so; whatever else is missing shows itself."""
    done = python("import sys; sys.modules['attrs'] = None; import conversation_store.cli.main")
    assert "ModuleNotFoundError" in done.stderr


def test_the_package_needs_no_extra() -> None:
    """Using a store imports neither click nor rich."""
    code = (
        "import sys; from conversation_store import Store, Client; from conversation_store.testing import MessagesAPI\n"
        "Store('sqlite://').open('k'); print({'click', 'rich'} & set(sys.modules))"
    )
    assert python(code).stdout == "set()\n"


def test_colour_is_for_terminals(tmp_path: Path) -> None:
    """A terminal gets colour, unless NO_COLOR; a pipe never does, whatever the environment says."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url) as store:
        store.open("k").user("Hello")
    arguments = ("show", "k", "--database", url)
    assert "\x1b[" in terminals.on_terminal(*arguments)[1]
    assert "\x1b" not in terminals.on_terminal(*arguments, env={"NO_COLOR": "1"})[1]
    assert "\x1b" not in terminals.on_terminal(*arguments, env={"TERM": "dumb"})[1]
    assert b"\x1b" not in terminals.run(*arguments, env={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}).stdout


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """Output into a pipe that nobody reads any more ends quietly, with the code a shell gives for it."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url) as store:
        store.open("k").user("word " * 500_000)
    command = terminals.command("show", "k", "--database", url)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=terminals.environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_terminal_of_another_encoding(tmp_path: Path) -> None:
    """What the output's encoding lacks is spelled, not a traceback."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url) as store:
        store.open("k").user("Ameise 蟻 🐜")
    done = terminals.run("show", "k", "--database", url, env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert rb"Ameise \u87fb \U0001f41c" in done.stdout
