"""``check``: what a send would meet is told before it, whole and harmless, with exit codes for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, get_args

import pytest

from conversation_store import Client, Conversation, Store
from conversation_store.api.rules import Fix
from conversation_store.cli.checks import FIXES
from conversation_store.errors import CodecError
from conversation_store.testing import MessagesAPI
from tests import asks
from tests.cli import terminals

MODEL, ON = "claude-sonnet-5-5", "2026-11-22"
SETTINGS: Mapping[str, Any] = {"model": MODEL, "max_tokens": 64}
ANSWER: Mapping[str, Any] = {"type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn"}
WORDS = [{"type": "text", "text": "Hm."}]


@contextmanager
def store_at(url: str) -> Iterator[Store]:
    """Open a store."""
    with Store(url) as store:
        yield store


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give the URL of a database that is not there yet."""
    return f"sqlite:///{tmp_path / 'a.db'}"


def told(*arguments: str, code: int = 0) -> str:
    """Check on the day of the price list and give what was printed."""
    done = terminals.invoke("check", "--on", ON, *arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


def facts(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Check and give the JSON."""
    printed = told("--json", *arguments, code=code)
    assert printed.isascii()
    assert printed.count("\n") == 1
    found: dict[str, Any] = json.loads(printed)
    return found


def broken(store: Store) -> None:
    """Keep a transcript as no API would take it."""
    store.open("k", **SETTINGS).append(
        asks.user("Hi"),
        asks.assistant(asks.text("I look."), asks.call(input={"city": "Arles"})),
        asks.user(" "),
        asks.assistant("Hm."),
        asks.user("So?"),
        check=False,
    )


def test_a_clean_conversation(database_url: str) -> None:
    """Nothing is found; tokens, price and the cache are told, and nothing is sent or written."""
    with (
        MessagesAPI() as api,
        Client(api.key, base_url=api.url) as client,
        Store(database_url, client=client) as store,
    ):
        chat = store.open("k", cache="auto", system="Be brief. " * 400, **SETTINGS)
        chat.send("Hello")
        chat.send("And more?")
        version, asked = chat.version, len(api.requests)
        printed = told("k", "--database", database_url)
        assert (chat.refresh().version, len(api.requests)) == (version, asked)
    assert printed.startswith(f"k  4 turns, {MODEL}, as of {ON}\n\n  rules    nothing found\n")
    assert " (estimated), 0." in printed
    assert " % of the context window of 1,000,000\n" in printed
    assert "  price    about USD 0.0" in printed
    assert printed.endswith("  cache    exchange 7: all that the exchange before had written was read\n")


def test_a_broken_conversation(url: str) -> None:
    """Each finding is a block of lines: where, which turn, what, and what would mend it."""
    with store_at(url) as store:
        broken(store)
    assert told("k", "--database", url, code=1).startswith(
        f"""\
k  5 turns, {MODEL}, as of {ON}

error  messages.1  calls_answered
    turn 1 (entry 3), assistant, synthetic: I look. [calls weather {{"city":"Arles"}}]
    `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. Answer each with tool_result(), \
or run_tools()
    fix: answer the call with an error result (answer_call)

error  messages.2.content  text_not_blank
    turn 2 (entry 4), user, human: (blank)
    text content blocks must contain non-whitespace text
    fix: set the turn aside (set_aside)

  rules    2 errors; as it stands, a send would be refused
  tokens   """
    )


def test_the_same_as_json(url: str) -> None:
    """One object with every fact; money and shares are strings of digits."""
    with store_at(url) as store:
        broken(store)
        chat = store.get("k")
        first, total = chat.turns[1], chat.tokens().total
    found = facts("k", "--database", url, code=1)
    assert found["findings"][0] == {
        "rule": "calls_answered",
        "severity": "error",
        "path": "messages.1",
        "turn": {
            "index": 1,
            "conversation": str(first.conversation),
            "position": 3,
            "role": "assistant",
            "origin": "synthetic",
            "snippet": 'I look. [calls weather {"city":"Arles"}]',
        },
        "message": "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. "
        "Answer each with tool_result(), or run_tools()",
        "fix": "answer_call",
    }
    assert found["findings"][1]["turn"]["snippet"] == ""
    assert {name: found[name] for name in ("conversation", "key", "model", "listed", "on")} == {
        "conversation": str(first.conversation),
        "key": "k",
        "model": MODEL,
        "listed": True,
        "on": ON,
    }
    assert found["tokens"] == {
        "total": total,
        "exact": False,
        "settings": found["tokens"]["settings"],
        "context": 1_000_000,
        "share": f"{(Decimal(total) / 1_000_000).quantize(Decimal('0.0001')):f}",
    }
    # USD 2 for a million tokens.
    assert Decimal(found["price"]["usd"]) == Decimal(total) * 2 / 1_000_000
    assert found["price"]["missing"] == []
    assert found["cache"] == {"message": "nothing was sent yet"}


def test_the_cache_of_the_newest_exchange(url: str) -> None:
    """A miss says what parted the requests and what that cost, to people and to programs."""
    wrote = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 5_000}
    with store_at(url) as store:
        chat = store.open("k", cache="auto", **SETTINGS)
        chat.begin("Hello").finish({**ANSWER, "content": WORDS, "usage": wrote})
        chat.update(system="Be brief.")
        chat.begin("Again").finish({**ANSWER, "content": WORDS, "usage": wrote})
        report = chat.explain_cache()
    found = facts("k", "--database", url)["cache"]
    assert (found["verdict"], found["missed"], found["difference"]["path"]) == ("changed", 5_000, "system")
    assert found["message"] == report.message
    assert Decimal(found["cost"]) == report.cost
    printed = told("k", "--database", url)
    assert f"  cache    exchange {report.exchange}: system is not what it was in the exchange before" in printed
    assert "5000 tokens were not read, which cost $0.0" in printed


@pytest.mark.parametrize("settings", [{}, {"speed": "fast", "model": "claude-opus-5-5"}, {"inference_geo": "us"}])
def test_the_price_is_that_of_the_settings(url: str, settings: Mapping[str, Any]) -> None:
    """Speed and place are priced as an answer that used them would be."""
    with store_at(url) as store:
        chat = store.open("k", **{**SETTINGS, **settings})
        chat.user("Hello " * 1000)
        found = facts("k", "--database", url, code=facts_code(chat.check(on=datetime(2026, 11, 22, tzinfo=UTC).date())))
        usage = {"input_tokens": found["tokens"]["total"], "output_tokens": 0, **settings}
        usage.pop("model", None)
        answer = {**ANSWER, "model": chat.settings["model"], "content": WORDS, "usage": usage}
        chat.begin(check=False).finish(answer)
        assert Decimal(found["price"]["usd"]) == chat.cost > 0


def facts_code(findings: Any) -> int:
    """Say which exit code some findings are."""
    return int(any(finding.severity == "error" for finding in findings))


def test_an_unlisted_model_is_a_warning(url: str) -> None:
    """It stops nothing: exit code 0; context and price are not known, and said so."""
    with store_at(url) as store:
        store.open("k", model="claude-next", max_tokens=64).user("Hi")
    done = terminals.invoke("check", "k", "--database", url)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode()
    assert "\nwarning  model  listed\n    claude-next is not in the list of models" in printed
    assert "  rules    1 warning; nothing that stops a send\n" in printed
    assert "(estimated)\n  price    not known; the list lacks model claude-next\n" in printed
    found = facts("k", "--database", url)
    assert (found["listed"], found["tokens"]["context"], found["tokens"]["share"]) == (False, None, None)
    assert (found["price"]["usd"], found["price"]["missing"]) == (None, ["model claude-next"])


def test_another_model_and_another_day(url: str) -> None:
    """It is judged as a request to that model on that day, and counted as that model's tokenizer would."""
    with store_at(url) as store:
        store.open("k", **SETTINGS).user("Hi")
    printed = told("k", "--database", url, "--model", "claude-haiku-4-5")
    assert "1 turn, claude-haiku-4-5," in printed
    assert "of 200,000\n" in printed
    old = ("k", "--database", url, "--model", "claude-sonnet-4-5", "--on")
    assert terminals.invoke("check", *old, "2026-11-01").returncode == 0
    assert terminals.invoke("check", *old, "2026-11-30").returncode == 1
    early = terminals.invoke("check", "k", "--database", url, "--on", "0001-01-01")
    assert f"the list lacks price of {MODEL} on 0001-01-01" in early.stdout.decode()


def test_a_conversation_in_which_nothing_was_said(url: str) -> None:
    """As it stands there is nothing to send; without a model there is no price."""
    with store_at(url) as store:
        store.open("empty", **SETTINGS)
        store.open("bare")
    printed = told("empty", "--database", url, code=1)
    assert printed.startswith(f"empty  0 turns, {MODEL}")
    assert "error  messages  some_message\n    at least one message is required" in printed
    assert "  cache    nothing was sent yet\n" in printed
    printed = told("bare", "--database", url, code=1)
    assert printed.startswith("bare  0 turns, no model")
    assert "error  model  required\n" in printed
    assert "  price    not known: no model is set\n" in printed
    assert facts("bare", "--database", url, code=1)["model"] is None


def test_what_the_cache_needs_was_erased(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is told all the same."""

    def erased(_: Conversation) -> NoReturn:
        raise CodecError("entry 2 was erased")

    with store_at(url) as store:
        store.open("k", **SETTINGS).user("Hi")
    monkeypatch.setattr(Conversation, "explain_cache", erased)
    assert told("k", "--database", url).endswith("  cache    cannot be told any more: entry 2 was erased\n")
    assert facts("k", "--database", url)["cache"] == {"message": "cannot be told any more: entry 2 was erased"}


def test_a_prompt_that_is_too_long(url: str) -> None:
    """Its share of the context window is told, whatever it is."""
    with store_at(url) as store:
        store.open("k", model="claude-haiku-4-5", max_tokens=64).user("word " * 400_000)
    assert facts("k", "--database", url)["tokens"]["share"] > "1.0000"
    with store_at(url) as store:
        store.open("short", **SETTINGS).user("Hi")
    assert "(estimated), less than 0.01 % of the context window" in told("short", "--database", url)


def test_a_pending_conversation(url: str) -> None:
    """One that waits for an answer can be looked at too."""
    with store_at(url) as store:
        store.open("k", **SETTINGS).begin("Hello")
    assert told("k", "--database", url).endswith("exchange 3: there is no exchange before it to read from\n")


def test_what_is_not_there() -> None:
    """A missing file, key or day is one line and its exit code."""
    assert terminals.invoke("check", "k", "--database", "no.db").returncode == 3
    assert terminals.invoke("check").returncode == 2
    assert terminals.invoke("check", "k", "--on", "tomorrow").returncode == 2


def test_a_missing_key_and_a_model_that_is_no_text(url: str) -> None:
    """Both are one line."""
    with store_at(url) as store:
        store.open("k", **SETTINGS)
    for arguments, code in ((("nope",), 3), (("k", "--model", "\udcff"), 2)):
        done = terminals.invoke("check", *arguments, "--database", url)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1)


@pytest.fixture
def hostile(url: str) -> Iterator[tuple[str, str]]:
    """Give a database and a conversation in which everything that can be is hostile."""
    evil = terminals.HOSTILE
    with store_at(url) as store:
        chat = store.open(evil, model=evil, max_tokens=64, system=[{"type": evil}], tools=[{"name": evil, evil: evil}])
        chat.append(
            {"role": "user", "content": evil},
            {"role": "assistant", "content": [asks.call(evil, name=evil, input={evil: evil})]},
            {"role": "user", "content": [asks.result(evil, content=evil)]},
            {"role": "assistant", "content": evil + " "},
            check=False,
        )
        yield url, str(chat.id)


def test_nothing_hostile_reaches_a_pipe(hostile: tuple[str, str]) -> None:
    """In content, names, ids, settings, keys: what a terminal would obey is spelled, and forges no line."""
    url, which = hostile
    done = terminals.run("check", which, "--database", url)
    assert done.returncode == 1
    printed = done.stdout.decode()
    assert not terminals.obeyed(printed + done.stderr.decode())
    assert r"\x1b]52;c;aGk=\x07" in printed
    assert "\t" not in printed
    beginnings = ("error  ", "warning  ", "    ", "  rules    ", "  tokens   ", "  price    ", "  cache    ")
    assert all(line.startswith(beginnings) for line in printed.splitlines()[1:] if line)
    done = terminals.run("check", which, "--json", "--database", url)
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["model"] == terminals.HOSTILE


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nothing_hostile_reaches_a_terminal(hostile: tuple[str, str], more: tuple[str, ...]) -> None:
    """On a terminal our own colours show, and nothing else does anything."""
    url, which = hostile
    code, screen = terminals.on_terminal("check", which, *more, "--database", url)
    assert code == 1
    assert not terminals.obeyed(screen, colour=True)
    if more:
        assert json.loads(screen)["key"] == terminals.HOSTILE


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_a_terminal(url: str, columns: int) -> None:
    """Words are wrapped below where they began, and no line is wider than the terminal."""
    with store_at(url) as store:
        broken(store)
        chat = store.open("cache", cache="auto", **SETTINGS)
        usage = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 5_000}
        for system in ("Be brief.", "Be kind."):
            chat.update(system=system)
            chat.begin("Hello").finish({**ANSWER, "content": WORDS, "usage": usage})
    for key in ("k", "cache"):
        env = {"COLUMNS": str(columns), "NO_COLOR": "1"}
        _, screen = terminals.on_terminal("check", key, "--database", url, env=env)
        lines = screen.replace("\r\n", "\n").splitlines()
        assert max(map(len, lines)) <= columns
    assert lines[-2].startswith("  cache    exchange ")
    assert lines[-1].startswith(" " * 11)
    assert not lines[-1].startswith(" " * 12)


def test_a_terminal_gets_colour(url: str) -> None:
    """What is wrong is red there."""
    with store_at(url) as store:
        broken(store)
    _, screen = terminals.on_terminal("check", "k", "--database", url)
    assert "\x1b[1;31merror\x1b[0m" in screen


def test_every_fix_has_words() -> None:
    """No fix of the rule book is left unexplained."""
    assert set(FIXES) == set(get_args(Fix))
