"""What every test can ask for: databases of its own, and hypothesis set up to be repeatable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from tests import databases

RUN: Final = pytest.StashKey[Path]()
REQUIRED: Final = "CONVERSATION_STORE_REQUIRE_POSTGRESQL"
"""Set to 1, a missing PostgreSQL is a failure, not a reason to skip."""

REPEATABLE: Final = settings(
    deadline=None,  # a busy machine is no fault of the code
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # neither is a slow one
)
settings.register_profile("default", REPEATABLE, max_examples=100)
settings.register_profile("fast", REPEATABLE, max_examples=20)
settings.register_profile("long", REPEATABLE, max_examples=2000, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, or, in a worker of pytest-xdist, take part in the one its controller began."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.stash[RUN] = databases.begin() if given is None else Path(given["databases"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["databases"] = str(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run where it began; an interrupted pytest comes by here too."""
    if not hasattr(config, "workerinput"):
        databases.end(config.stash[RUN])


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> databases.PostgreSQL:
    """Databases on the PostgreSQL of this run."""
    try:
        server = databases.postgresql(request.config.stash[RUN])
    except databases.UnavailableError as unavailable:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but: {unavailable}", pytrace=False)
        pytest.skip(str(unavailable))
    return databases.PostgreSQL(server, os.environ.get("PYTEST_XDIST_WORKER", "main"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """
    Give the URL of an empty database of the test's own, on each engine in turn; a Store opens it as it is.

    On PostgreSQL the tables are there; the file of SQLite is not, and the library makes it.
    """
    yield from _database(request, tmp_path, schema=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database of the test's own without any table, on each engine in turn."""
    yield from _database(request, tmp_path, schema=False)


def _database(request: pytest.FixtureRequest, tmp_path: Path, *, schema: bool) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bot.db'}"
        return
    postgresql: databases.PostgreSQL = request.getfixturevalue("postgresql")
    with postgresql.database(schema=schema) as url:
        yield url
