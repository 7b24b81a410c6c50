"""The plan of the house, held: which module may import which, and which library comes in by which door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest
from attrs import frozen

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = "conversation_store"

FLOORS: Final = (
    {"errors"},
    {"record"},
    {"api", "storage", "formats"},
    {
        "exchanges",
        "outcomes",
        "attachments",
        "history",
        "preflight",
        "tokens",
        "tools",
        "views",
        "windows",
        "transfer",
        "imports",
        "audit",
        "migrations",
    },
    {"compaction", "mending", "pending", "sending", "streaming", "conversation"},
    {"store"},
    {"aio", "cli", "viewer", "testing", "integrations"},
    {PACKAGE},  # the package itself offers names of all the rooms
)
FLOOR: Final = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART: Final = {"api", "storage", "formats"}  # never sideways between these

DOORS: Final[Mapping[str, tuple[str, ...]]] = {
    "alembic": ("storage/migrate.py", "migrations/"),
    "asyncio": ("aio.py",),
    "attrs": ("",),
    "base64": ("record/splices.py", "record/notes.py", "testing/"),
    "cattrs": ("record/codec.py",),
    "click": ("cli/",),
    "cryptography": ("audit/keys.py", "storage/keyring.py", "storage/cipher.py"),
    "json": ("record/canonical.py", "testing/"),  # testing is an oracle: it must not share our mistakes
    "msgspec": ("record/canonical.py",),
    "psycopg": ("storage/",),
    "pybase64": ("record/splices.py", "testing/"),
    "pymysql": ("storage/",),
    "requests": ("api/connection.py",),
    "rich": ("cli/",),
    "sqlalchemy": ("storage/", "migrations/"),
    "sqlite3": ("storage/",),
    "urllib3": ("api/connection.py",),
}
TYPES: Final = {"sqlalchemy.Connection", "sqlalchemy.Engine", "sqlalchemy.URL"}  # as types, they may cross these rooms:
TYPED: Final = (
    "exchanges.py",
    "attachments.py",
    "history.py",
    "audit/",
    "conversation.py",
    "store.py",
    "transfer.py",
    "imports.py",
)

HIDDEN: Final[Mapping[str, str]] = {  # where an import may stand in a function: which library, "*" for any
    "cli/": "*",  # optional extras: a missing one is explained when it is needed,
    "integrations/": "*",  # not when the module is imported
    "viewer/": "*",
    "audit/keys.py": "cryptography",  # an optional extra: a key is an address until it is used
    "record/codec.py": "cattrs",  # typed blocks are made when somebody looks
    "storage/cipher.py": "cryptography",  # likewise: nothing is encrypted in most stores
    "storage/keyring.py": "cryptography",
    "storage/migrate.py": "alembic",  # nothing heavy at import, and most processes migrate nothing
}
_SELDOM: Final = (  # what few processes call
    "audit",
    "compaction",
    "formats",
    "imports",
    "mending",
    "record.words",
    "storage.rotation",
    "storage.search",
    "tokens",
    "tools",
    "transfer",
    "views",
)
DEFERRED: Final[Mapping[str, tuple[str, ...]]] = {  # which of our own modules a file imports when it is called
    "conversation.py": (*_SELDOM, "api.stream", "streaming"),  # not every bot streams
    "history.py": ("api.stream",),
    "pending.py": ("api.stream",),
    "store.py": _SELDOM,
    "windows.py": ("tokens", "views"),
    "api/client.py": ("api.connection",),  # and requests with it: most processes at work on a store send nothing
}
# Errors carry findings and attempts, values of higher floors, and name their types for the type checker only.
ANNOTATING: Final = f"{PACKAGE}/errors.py"

VAGUE: Final = {"utils", "util", "helpers", "base", "manager", "common", "core"}


@frozen
class Import:
    """One imported name in full, where it stands, and whether in a function or for the type checker only."""

    path: str
    line: int
    name: str
    hidden: bool
    typing: bool


def module(path: str) -> str:
    """Name the module of a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(name: str) -> str:
    """Name the room a module of ours belongs to: the part after the package, or ``migrations``."""
    return name.removeprefix(PACKAGE + ".").split(".")[0]


def imports(path: str, node: ast.AST, *, hidden: bool = False, typing: bool = False) -> Iterator[Import]:
    """Find every import below *node*."""
    for child in ast.iter_child_nodes(node):
        inside = hidden or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        match child:
            case ast.Import(names=names):
                yield from (Import(path, child.lineno, each.name, hidden, typing) for each in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                here = path.removesuffix(".py").split("/")[:-level] if level else []
                start = ".".join([*here, *([source] if source else [])])
                yield from (Import(path, child.lineno, f"{start}.{e.name}", hidden, typing) for e in names)
            case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
                yield Import(path, child.lineno, "importlib.import_module()", hidden=True, typing=typing)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=otherwise):
                yield from imports(path, ast.Module(body, []), hidden=hidden, typing=True)
                yield from imports(path, ast.Module(otherwise, []), hidden=hidden, typing=typing)
            case _:
                yield from imports(path, child, hidden=inside, typing=typing)


def behind(path: str, doors: tuple[str, ...]) -> bool:
    """Tell whether a file is one of *doors*, or in one of them."""
    return path.removeprefix(PACKAGE + "/").startswith(doors)


def may_wait(path: str, target: str) -> bool:
    """Say whether a file may import one of our modules when it is called."""
    waiting = DEFERRED.get(path.removeprefix(f"{PACKAGE}/"), ())
    return f"{target}.".startswith(tuple(f"{PACKAGE}.{name}." for name in waiting))


def fault_of_ours(imported: Import, target: str) -> str | None:
    """Say what is wrong with an import of one of our own modules."""
    importer, wanted = room(module(imported.path)), room(target)
    wrong = {
        f"hides its import of {target} in a function": imported.hidden and not may_wait(imported.path, target),
        f"is frozen and must not import {target}": imported.path.startswith("migrations/versions/"),
        f"is an independent oracle and must not import {target}": (
            importer == "testing" and wanted not in {"testing", "errors"}
        ),
        f"imports {target}, which is up": FLOOR.get(wanted, 0) > FLOOR.get(importer, 0),
        f"imports {target}, which is sideways": importer != wanted and {importer, wanted} <= APART,
    }
    return next((fault for fault, found in wrong.items() if found), None)


def fault_of_theirs(imported: Import) -> str | None:
    """Say what is wrong with an import of another library."""
    library = imported.name.split(".")[0]
    places = [allowed for place, allowed in HIDDEN.items() if behind(imported.path, (place,))]
    lazy_package = imported.path == f"{PACKAGE}/__init__.py" and library == "importlib"
    if imported.hidden and not lazy_package and not {"*", library} & set(places):
        return f"hides its import of {imported.name} in a function"
    if library in sys.stdlib_module_names and library not in DOORS:
        return None
    if behind(imported.path, (*DOORS.get(library, ()), "integrations/")):
        return None
    if imported.name in TYPES and behind(imported.path, TYPED):
        return None
    return f"imports {imported.name}: not its door"


def undocumented(path: str, node: ast.AST, name: str) -> Iterator[str]:
    """Find the public classes and functions below *node* that say nothing about themselves."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if not ast.get_docstring(node):
            yield f"{path}: {name} has no docstring"
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
            called = getattr(child, "name", "_")
            marks = {getattr(m, "attr", getattr(m, "id", "")) for m in getattr(child, "decorator_list", ())}
            if not called.startswith("_") and not marks & {"overload", "override", "setter"}:
                yield from undocumented(path, child, called)


def faults(sources: Mapping[str, str]) -> Iterator[str]:
    """Compare a house, given as the text of each file under its path, with the plan."""
    modules = {module(path) for path in sources}
    graph: dict[str, set[str]] = {}
    for path, source in sources.items():
        tree = ast.parse(source)
        yield from undocumented(path, tree, "the module")
        if VAGUE & set(module(path).split(".")):
            yield f"{path}: its name says nothing"
        if room(module(path)) not in FLOOR:
            yield f"{path}: stands on no floor"
        edges = graph.setdefault(module(path), set())
        for imported in imports(path, tree):
            target = imported.name if imported.name in modules else imported.name.rpartition(".")[0]
            ours = f"{target}.".startswith((f"{PACKAGE}.", "migrations."))
            if ours and imported.typing and path == ANNOTATING:
                continue
            if ours:
                edges.add(target)
            fault = fault_of_ours(imported, target) if ours else fault_of_theirs(imported)
            if fault:
                yield f"{path}:{imported.line}: {fault}"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "a cycle: " + " -> ".join(error.args[1])


def test_what_few_call_is_not_loaded() -> None:
    """Importing what every bot does loads nothing of what is deferred."""
    program = f"import sys; from {PACKAGE} import Client, Store; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = told.stdout.split()
    assert f"{PACKAGE}.storage.log" in loaded
    assert not {"requests", "cattrs"} & set(loaded)
    assert not [name for name in loaded if any(may_wait(path, name) for path in DEFERRED)]


def test_the_house_is_built_to_plan() -> None:
    """Every module of the package and every migration keeps to the plan."""
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    sources = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in sorted(files)}
    found = list(faults(sources))
    assert not found, "\n".join(found)


ALLOWED = {
    "api/connection.py": "import requests\nfrom urllib3.util import Retry\nfrom conversation_store import errors",
    "audit/seal.py": "from sqlalchemy import Connection, Engine\nfrom conversation_store.storage import tables",
    "cli/main.py": "import click\ndef run():\n 'Run.'\n import rich",
    "errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from conversation_store.api import rules",
    "integrations/django.py": "import django",
    "storage/log.py": "import sqlalchemy as sa\nfrom conversation_store.storage.tables import entry",
    "storage/migrate.py": "def upgrade():\n 'Upgrade.'\n from alembic import command",
    "testing/server.py": "import base64, json\nfrom conversation_store.errors import APIError",
    "__init__.py": "import importlib\ndef __getattr__(name):\n return importlib.import_module(name)",
}

BROKEN = {
    "up": ("storage/log.py", "from conversation_store.store import Store", "is up"),
    "up, for the type checker": (
        "record/a.py",
        "if TYPE_CHECKING:\n from conversation_store.api import b",
        "is up",
    ),
    "up, relatively": ("record/blocks.py", "from ..store import Store", "is up"),
    "up, to the package": ("store.py", "from conversation_store import __version__", "is up"),
    "up, from errors, at run time": ("errors.py", "from conversation_store.record import blocks", "is up"),
    "sideways": ("api/rules.py", "import conversation_store.storage.log", "is sideways"),
    "no oracle": (
        "testing/server.py",
        "from conversation_store.record import canonical",
        "independent oracle",
    ),
    "a thawed revision": (
        "migrations/versions/0001.py",
        "from conversation_store.storage import tables",
        "is frozen",
    ),
    "hidden, ours": ("api/rules.py", "def f():\n 'F.'\n from conversation_store import errors", "hides"),
    "hidden, a library": ("storage/log.py", "class A:\n 'A.'\n def _f(s):\n  import sqlalchemy", "hides"),
    "hidden, by name": (
        "storage/log.py",
        "from importlib import import_module\nx = import_module('y')",
        "hides",
    ),
    "hidden, ours, in an extra": (
        "cli/main.py",
        "def f():\n 'F.'\n from conversation_store import store",
        "hides",
    ),
    "json": ("api/request.py", "import json", "not its door"),
    "cattrs": ("record/blocks.py", "from cattrs import Converter", "not its door"),
    "requests": ("api/request.py", "import requests.adapters", "not its door"),
    "sqlalchemy": ("exchanges.py", "from sqlalchemy import select", "not its door"),
    "alembic": ("storage/tables.py", "import alembic", "not its door"),
    "a newcomer": ("viewer/pages.py", "import jinja2", "not its door"),
    "a vague name": ("api/utils.py", "", "says nothing"),
    "no floor": ("cellar/wine.py", "", "on no floor"),
    "an undocumented function": ("api/rules.py", "def check(): ...", "check has no docstring"),
    "an undocumented method": (
        "api/rules.py",
        "class Rule:\n 'A rule.'\n def check(self): ...",
        "check has no",
    ),
}


def house(changed: Mapping[str, str]) -> dict[str, str]:
    """Build a small house without fault and put files, given by their path, in the place of its own."""
    paths = ("__init__.py", "errors.py", "record/blocks.py", "api/rules.py", "storage/tables.py", "store.py")
    files = {**dict.fromkeys(paths, ""), **changed}
    return {
        path if path.startswith("migrations/") else f"{PACKAGE}/{path}": f"'A module.'\n{source}"
        for path, source in files.items()
    }


@pytest.mark.parametrize("path", ALLOWED)
def test_what_the_plan_allows_is_no_fault(path: str) -> None:
    """The exceptions the plan makes are made."""
    assert list(faults(house({path: ALLOWED[path]}))) == []


@pytest.mark.parametrize("name", BROKEN)
def test_every_fault_is_found(name: str) -> None:
    """A house with one fault is found to have just that fault."""
    path, source, expected = BROKEN[name]
    (fault,) = faults(house({path: source}))
    assert expected in fault


def test_a_cycle_is_found() -> None:
    """Two modules of one room that import each other are found."""
    there = "from conversation_store.record import turns"
    back = "from conversation_store.record.blocks import Text"
    (fault,) = faults(house({"record/blocks.py": there, "record/turns.py": back}))
    assert "a cycle" in fault


def test_a_module_without_a_docstring_is_found() -> None:
    """A module has to say what it owns."""
    assert list(faults({f"{PACKAGE}/store.py": ""})) == [f"{PACKAGE}/store.py: the module has no docstring"]
