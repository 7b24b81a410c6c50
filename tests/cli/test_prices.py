"""``models`` and ``usage``: what is known, what differs, what was spent; complete, harmless, with exit codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from conversation_store import Store
from conversation_store.api import models
from conversation_store.cli.costs import differences
from conversation_store.testing import MessagesAPI
from conversation_store.testing.models import Model
from tests.cli import terminals


@pytest.fixture
def spent(tmp_path: Path) -> str:
    """Give a database with three conversations: one priced, one not, one pending."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    usage = {"input_tokens": 1_000, "output_tokens": 500, "cache_read_input_tokens": 1}
    said: dict[str, Any] = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    settings: Mapping[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 64}
    with Store(url) as store:
        for model in ("claude-opus-5-5", "claude-haiku-4-5"):
            store.open("telegram:42", **settings).begin("Hello").finish({**said, "model": model})
        store.open(terminals.HOSTILE, **settings).begin("Hello").finish({**said, "model": "claude-\x1b[31mx"})
        store.open("waiting", **settings).begin("Hello")
    return url


def test_the_list_of_models_has_every_model_and_price() -> None:
    """A line each, in columns; what is retired says since when."""
    shown = terminals.shown(["models"]).splitlines()
    assert len(shown) == len(models.load()) + 2
    (line,) = [each for each in shown if each.startswith("claude-haiku-5-5 ")]
    assert line.split() == [
        "claude-haiku-5-5",
        "1M",
        "128k",
        "0.10",
        "0.01",
        "0.50",
        "512",
        "adaptive/disabled",
        "more",
        "over",
        "100k",
    ]
    (old,) = [each for each in shown if each.startswith("claude-3-haiku")]
    assert old.endswith("retired 2026-04-20")
    (ending,) = [each for each in shown if each.startswith("claude-sonnet-4-5")]
    assert ending.endswith("prefill,to 2026-11-30")
    assert shown[-1].startswith("As of 2026-11-22")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_list_fits_a_terminal(columns: str) -> None:
    """No line of the table is broken at the two usual widths."""
    code, screen = terminals.on_terminal("models", env={"COLUMNS": columns, "NO_COLOR": "1"})
    lines = screen.replace("\r\n", "\n").rstrip("\n").split("\n")
    assert code == 0
    assert len(lines) == len(models.load()) + 2
    assert ("thinking" in lines[0]) == (columns == "120")


def test_one_model_is_told_whole() -> None:
    """By any of its names: limits, thinking, every price with its tier and its factors."""
    shown = terminals.shown(["models", "claude-haiku-5-5"])
    for expected in (
        "active, not before 2027-10-07",
        "1,000,000 tokens",
        "adaptive/disabled, on where the request does not say",
        "from 512 tokens on",
        "in 0.50, 5m 0.625, 1h 1.00, read 0.05, out 2.50 (from 2026-10-07, prompts over 100,000, batch *0.5, us *1.1)",
    ):
        assert expected in shown
    assert terminals.shown(["models", "claude-sonnet-4-5"]).startswith("claude-sonnet-4-5-20250929  also claude-sonnet")
    assert "fast" in terminals.shown(["models", "claude-opus-5-5"])


def test_the_list_as_json_has_every_digit() -> None:
    """Money is strings of digits, days are ISO 8601; one model alone where it is named."""
    everything = json.loads(terminals.shown(["models", "--json"]))
    assert [each["id"] for each in everything] == [model.id for model in models.load()]
    (one,) = json.loads(terminals.shown(["models", "claude-fable-5-1", "--json"]))
    assert one["not_before"] == "2027-09-01"
    assert one["prices"][0]["write_5m"] == "12.50"
    assert one["prices"][0]["since"] == "2026-09-01"


def test_a_model_nobody_knows() -> None:
    """It is not found, in one line with what to do."""
    done = terminals.invoke("models", "claude-\x1b[31mnope")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"is not in the list of models" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not terminals.obeyed(done.stderr.decode())
    assert terminals.invoke("models", "--refresh", "--json").returncode == 2


def test_refreshing_asks_the_api() -> None:
    """What is new, changed or gone is said, one line each, and the exit code is that of a finding."""
    new = Model("claude-\x1b[31mnext", context=2_000_000)
    with MessagesAPI(models=[new]) as api:
        env = {"ANTHROPIC_API_KEY": api.key, "ANTHROPIC_BASE_URL": api.url}
        done = terminals.invoke("models", "--refresh", env=env)
        assert done.returncode == 1, done.stderr
        assert [request.path for request in api.requests] == ["/v1/models"]
        shown = done.stdout.decode()
        assert r"claude-\x1b[31mnext is not in the list" in shown
        assert not terminals.obeyed(shown)
        assert "claude-sonnet-4-5-20250929 status is deprecated in the list, active at the API" in shown
        assert "claude-opus-5-5 " not in shown
        assert terminals.invoke("models", "claude-opus-5-5", "--refresh", env=env).returncode == 0
        assert terminals.invoke("models", "claude-sonnet-4-5", "--refresh", env=env).returncode == 1
        unreachable = terminals.invoke("models", "--refresh", env={**env, "ANTHROPIC_API_KEY": "wrong"})
        assert unreachable.returncode == 5


def test_each_difference_is_named() -> None:
    """Limits, lifecycle, retirement and thinking; what the API leaves out is no difference."""
    told = {
        "id": "claude-opus-5-5",
        "max_input_tokens": 2_000_000,
        "max_tokens": 128_000,
        "lifecycle": "deprecated",
        "retires_at": "2027-10-01T00:00:00Z",
        "capabilities": {"thinking": {"types": {"adaptive": {"supported": True}, "disabled": {"supported": True}}}},
    }
    rest = [{"id": model.id, "capabilities": None} for model in models.load() if model.id != "claude-opus-5-5"]
    assert [what for _, what in differences(models.load(), [told, *rest])] == [
        "context is 1000000 in the list, 2000000 at the API",
        "status is active in the list, deprecated at the API",
        "retirement is not known in the list, 2027-10-01 at the API",
        "thinking is adaptive in the list, adaptive/disabled at the API",
    ]
    (gone,) = [each for each in differences(models.load(), rest) if each[0] == "claude-opus-5-5"]
    assert gone[1] == "is in the list, and the API does not offer it to this key"


def test_usage_is_a_table_with_a_sum(spent: str) -> None:
    """A line for each group and one for all; what has no known cost stands beside, and nothing is obeyed."""
    shown = terminals.shown(["usage", "--by", "key", "--by", "model", "--database", spent])
    assert not terminals.obeyed(shown)
    assert r"\x00\x01\x02" in shown
    lines = shown.splitlines()
    # USD per million: 1,000*4 + 1*0.20 + 500*20 = 14,000.2 and 1,000*1 + 1*0.10 + 500*5 = 3,500.1; six digits show.
    (opus,) = [line for line in lines if line.startswith("telegram:42") and "opus" in line]
    assert opus.split() == ["telegram:42", "claude-opus-5-5", "1", "1,000", "1", "0", "500", "0.014000"]
    (everything,) = [line for line in lines if line.startswith("all ")]
    assert everything.split() == ["all", "4", "3,000", "3", "0", "1,500", "0.017500", "+", "2", "unknown"]
    assert lines[-1] == "USD leaves out 2 exchanges whose cost is not known, or not whole."


def test_usage_of_one_conversation(spent: str) -> None:
    """By its key; as JSON, every digit is there."""
    (row,) = json.loads(terminals.shown(["usage", "telegram:42", "--json", "--database", spent]))
    assert row["by"] == {"day": datetime.now(UTC).date().isoformat()}
    assert (row["exchanges"], row["input_tokens"], row["unpriced"]) == (2, 2_000, 0)
    assert Decimal(row["cost"]) == Decimal("0.0175003")
    assert terminals.invoke("usage", "nobody", "--database", spent).returncode == 3


def test_usage_between_days(spent: str) -> None:
    """From a day on, and up to a day; where there is nothing, it says so and is done."""
    done = terminals.invoke("usage", "--until", "2020-01-01", "--database", spent)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no exchanges" in done.stderr
    shown = terminals.shown(["usage", "--since", "2020-01-01", "--by", "state", "--database", spent])
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["answered", "pending", "all"]
    assert terminals.invoke("usage", "--since", "yesterday", "--database", spent).returncode == 2
