"""What lies in the repository, and what importing the package does: nothing that nobody asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FILES: Final = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
FOLDERS: Final = {"conversation_store", "tests", "migrations"}

# Written so that this file does not match itself.
FOREIGN: Final = re.compile(
    r"pyp[i]\.org|pythonhoste[d]|registry\.npmj[s]|deb\.debia[n]|/(?:wor[k]|far[m]|hom[e]|roo[t]|User[s])/[\w.]"
)

PROBE: Final = """
import sys, threading
{statement}
heavy = {{"alembic", "requests", "sqlalchemy"}} & set(sys.modules)
print(*sorted(heavy), *(thread.name for thread in threading.enumerate()[1:]))
"""


def tracked() -> list[str]:
    """List the files git tracks; where there is no checkout, skip the test."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout: what is tracked cannot be told")
    return [path for path in listing.stdout.split("\0") if (ROOT / path).is_file()]


def foreign(text: str) -> list[str]:
    """Find what only means something on one machine: a registry's host, a path."""
    return [line for line in text.splitlines() if FOREIGN.search(line)]


def effects(statement: str) -> str:
    """Run a statement in a new interpreter and name the heavy libraries loaded and the threads started."""
    command = [sys.executable, "-W", "error", "-c", PROBE.format(statement=statement)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_the_top_of_the_repository_is_tidy() -> None:
    """At the top lie the package, its tests and migrations, four files, and what begins with a dot."""
    tops = {path.split("/")[0] for path in tracked()}
    assert {top for top in tops if not top.startswith(".")} <= FILES | FOLDERS


def test_no_text_names_a_registry_or_a_machine() -> None:
    """A clone works anywhere: no file names the host of a package registry or a path of one machine."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8", errors="replace") for path in tracked()}
    assert {path: found for path, text in texts.items() if (found := foreign(text))} == {}


@pytest.mark.parametrize("words", [("https://pyp", "i.org/simple"), ("/hom", "e/me/project"), ("/roo", "t/.cache")])
def test_a_registry_or_a_machine_is_found(words: tuple[str, str]) -> None:
    """The search above finds what it looks for."""
    assert foreign(f"first\nsee {''.join(words)}\nlast") == [f"see {''.join(words)}"]


def test_importing_the_package_is_light() -> None:
    """The import loads neither SQLAlchemy nor requests nor Alembic and starts no thread."""
    assert effects("import conversation_store") == ""


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import sqlalchemy", "sqlalchemy"),
        ("import time; threading.Thread(target=time.sleep, args=(1,), name='t', daemon=True).start()", "t"),
    ],
)
def test_a_heavy_import_is_noticed(statement: str, expected: str) -> None:
    """The probe above notices a heavy library and a thread."""
    assert effects(statement) == expected
