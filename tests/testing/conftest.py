"""What every test of the loopback API needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conversation_store.testing import MessagesAPI


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Return an API that lives as long as the test."""
    with MessagesAPI() as running:
        yield running
