"""Reading what is kept: complete, marked, harmless, and with exit codes for scripts."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conversation_store import Client, Conversation, Image, Store, Unknown
from conversation_store.cli import ant
from conversation_store.errors import APIError
from conversation_store.formats.wording import words_of
from conversation_store.record import canonical
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests.cli import terminals

MODEL = "claude-haiku-4-5"


@contextmanager
def talking(url: str, *answers: object) -> Iterator[tuple[Store, MessagesAPI]]:
    """Open a store whose client speaks to an API with these answers."""
    with MessagesAPI(strict=False) as api, Client(api_key=api.key, base_url=api.url, max_attempts=1) as client:
        api.answer(*answers)  # type: ignore[arg-type]
        with Store(url, client=client) as store:
            yield store, api


def opened(store: Store, key: str = "k") -> Conversation:
    """Make a conversation."""
    return store.open(key, model=MODEL, max_tokens=64)


def test_a_transcript_says_who_said_what(database_url: str) -> None:
    """Synthetic turns have their reason, prefills stand apart, pictures are named, tools are folded."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Berlin"}}
    with talking(database_url, "C) Formicidae", Answer([{"type": "thinking", "thinking": "Hm."}, tool])) as (store, _):
        chat = opened(store)
        chat.label(title="Ants")
        chat.user(Image.from_bytes(ant.png()), "What is this?")
        chat.assistant("An ant.", reason="canned")
        chat.send("Which?", prefill="It is (")
        chat.send("And the weather?")
        chat.tool_result("toolu_1", "18 degrees\nand sunny")
        chat.user(Image.from_url("https://example.org/ant.jpg"), Unknown(kind="hologram", extra={"depth": 3}))
    screen = terminals.shown(["show", "k", "--database", database_url])
    assert screen.startswith("k  Ants\n")
    for expected in (
        "[image: image/png, 160 x 96, 3.3 KiB]\n    What is this?",
        "assistant, synthetic: canned",
        "assistant, begun by a prefill ⟦…⟧",
        "    ⟦It is (⟧C) Formicidae\n",
        'calls weather {"city":"Berlin"}',
        "user, tool  ",
        r"[a result for toolu_1: 18 degrees\nand sunny]",
        "[image: https://example.org/ant.jpg]",
        '[hologram: {"depth":3}]',
        "answered, claude-haiku-4-5-20251001, end_turn",
        "tokens in",
    ):
        assert expected in screen, expected
    assert "Hm." not in screen
    full = terminals.shown(["show", "k", "--full", "--database", database_url])
    assert "    Hm.\n" in full
    assert "    18 degrees\n    and sunny\n" in full


def test_an_erased_turn_keeps_its_place(database_url: str) -> None:
    """It is marked where it stood, and the turns around it keep the numbers by which they are named."""
    with talking(database_url) as (store, _):
        chat = opened(store)
        chat.user("first")
        gone = chat.user("the secret")
        chat.user("last")
        chat.erase(gone, reason="asked", by="dpo")
        assert [type(each).__name__ for each in chat.transcript()] == ["Turn", "Erased", "Turn"]
    screen = terminals.shown(["show", "k", "--database", database_url])
    assert "the secret" not in screen
    assert screen.index("first") < screen.index("erased, human  ") < screen.index("1  user") < screen.index("last")


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        (b"[1e999]", "[Infinity]"),
        (b'["\\ud800",1e999]', '["\\ud800",Infinity]'),
        (b'{"a":["\\ud800",%s]}' % (b"9" * 5000), '{"a":["\\ud800",%s]}' % ("9" * 5000)),
        ('["\\ud800",true,null,"é"]'.encode(), '["\\ud800",true,null,"\\u00e9"]'),
    ],
)
def test_any_json_has_words(sent: bytes, written: str) -> None:
    """What canonical JSON refuses to write is shown all the same."""
    assert words_of(canonical.loads(sent)) == written


def test_a_prefill_of_blocks_is_marked_whole(tmp_path: Path) -> None:
    """Where the prefill could not be joined text to text, its blocks stand between the marks."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with talking(url, "rest") as (store, _):
        opened(store).send("Go", prefill=["One", "Two"])
    screen = terminals.shown(["show", "k", "--database", url])
    assert "    ⟦One⟧\n    ⟦Two⟧\n    rest\n" in screen


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.status(400, message="no"), "rejected by the API"),
        (Fault.status(529), "failed"),
        (Fault.close(), "may have been billed"),
        (Answer("no", stop_reason="refusal"), "refused by the model"),
    ],
)
def test_what_became_of_a_request_is_told(tmp_path: Path, fault: object, expected: str) -> None:
    """Every ending of an exchange shows in the transcript."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with talking(url, fault) as (store, _):
        chat = opened(store)
        with suppress(APIError):
            chat.send("Hello")
    assert expected in terminals.shown(["show", "k", "--database", url])


def test_conversations_are_listed(database_url: str) -> None:
    """The last changed comes first, with id, key and title; one without a key shows a dash."""
    with Store(database_url) as store:
        first, second, third = store.open("a b"), store.open("c"), store.open()
        first.label(title="The first")
    screen = terminals.shown(["list", "--database", database_url])
    assert len(screen.splitlines()) == 3
    assert screen.splitlines()[0].endswith(f"{first.id}  a b  The first")
    assert f"{second.id}  c\n" in screen
    assert f"{third.id}  -\n" in screen
    assert len(terminals.shown(["list", "--limit", "2", "--database", database_url]).splitlines()) == 2
    assert len(terminals.shown(["list", "--limit", "0", "--database", database_url]).splitlines()) == 3


def test_a_conversation_is_found_by_id_and_in_its_scope(tmp_path: Path) -> None:
    """The id names it as well as the key does; in another scope there is neither."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url, scope="acme") as store:
        made = store.open("k", model=MODEL)
    assert str(made.id) in terminals.shown(["show", str(made.id), "--scope", "acme", "--database", url])
    for name in ("k", str(made.id)):
        done = terminals.invoke("show", name, "--database", url)
        assert done.returncode == 3
        assert done.stderr.count(b"\n") == 1


def test_every_request_is_replayed_exactly(database_url: str) -> None:
    """Standard output is the body the API received, and nothing else."""
    with talking(database_url) as (store, api):
        chat = opened(store)
        chat.send("Hello \x7f\x85\u202e", Image.from_bytes(ant.png()))
        position = str(chat.exchanges[0].position)
        received = api.requests[0].raw
    done = terminals.invoke("replay", "k", position, "--database", database_url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == received
    missing = terminals.invoke("replay", "k", "0", "--database", database_url)
    assert (missing.returncode, missing.stdout) == (3, b"")


def test_a_changed_record_is_found(tmp_path: Path) -> None:
    """One changed byte: verify names the entry and exits with 1, and so does a replay that needs it."""
    path = tmp_path / "a.db"
    with talking(f"sqlite:///{path}") as (store, _):
        opened(store, "good").send("Hello")
        chat = opened(store)
        chat.send("Hello, Claude")
        position, length = chat.exchanges[0].position, chat.version
    assert terminals.shown(["verify", "--database", str(path)]).endswith(": no fault\n")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE conversation_entry SET body = replace(body, 'Claude', 'Clyde!') WHERE conversation = ?",
            (chat.id.bytes,),
        )
        connection.execute(
            "UPDATE conversation_entry SET body = CAST(body AS BLOB) WHERE conversation = ? AND body IS NOT NULL",
            (chat.id.bytes,),
        )
    connection.close()
    done = terminals.invoke("verify", "--database", str(path))
    assert done.returncode == 1
    assert b"k, entry 2: body: expected " in done.stdout
    assert f"2 conversations, {length * 2} entries: 1 fault\n".encode() in done.stdout
    assert terminals.invoke("verify", "good", "--database", str(path)).returncode == 0
    assert terminals.invoke("verify", "k", "--database", str(path)).returncode == 1
    replayed = terminals.invoke("replay", "k", str(position), "--database", str(path))
    assert (replayed.returncode, replayed.stdout) == (1, b"")


def hostile(url: str) -> tuple[str, list[str]]:
    """Keep a conversation in which everything that can be is hostile; give its id and its requests' positions."""
    nasty = terminals.HOSTILE
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": nasty},
        {"type": "thinking", "thinking": nasty, "signature": nasty},
        {"type": "tool_use", "id": nasty, "name": nasty, "input": {nasty: nasty}},
        {"type": "hologram" + nasty, nasty: nasty},
        {"type": "web_search_tool_result", "tool_use_id": nasty, "content": [nasty]},
        {"type": "text", "text": None},
        {"type": "thinking", "thinking": 5},
        {"type": "image", "source": nasty},
    ]
    lone = json.dumps([{"type": "text", "text": nasty + "\ud800 \udfff"}]).encode()
    message = {"id": nasty, "type": "message", "role": "assistant", "model": nasty, "stop_reason": nasty}
    raw = json.dumps(message).encode()[:-1] + b',"content":' + lone + b"}"
    answers = (Answer(blocks, model=nasty, stop_reason=nasty), Answer(body=raw), Fault.status(400, message=nasty))
    with talking(url, *answers) as (store, _):
        chat = store.open("k" + nasty, model=MODEL, max_tokens=64, system=nasty)
        chat.label(title=nasty, metadata={nasty: nasty})
        chat.user(nasty, Image.from_url("https://example.org/" + nasty))
        chat.assistant(nasty, reason=nasty)
        chat.send("go", check=False)
        chat.send("go on", prefill=nasty.strip() + ".", check=False)
        with suppress(APIError):
            chat.send(nasty, check=False)
        positions = [str(each.position) for each in chat.exchanges]
    return str(chat.id), positions


def test_nothing_kept_is_obeyed_by_a_terminal(database_url: str) -> None:
    """Every byte from 0x00 to 0x9f and every bidi control, anywhere in the record: no command lets one through."""
    name, positions = hostile(database_url)
    at = ["--database", database_url]
    commands = [
        ["list", *at],
        ["show", name, *at],
        ["show", name, "--full", *at],
        ["verify", *at],
        *(["replay", name, position, *at] for position in positions),
    ]
    for arguments in commands:
        code, screen = terminals.on_terminal(*arguments, env={"NO_COLOR": "1"})
        assert code == 0, screen
        assert "\x1b" not in screen
        assert terminals.obeyed(screen) == []
    for arguments in commands[:3]:
        code, screen = terminals.on_terminal(*arguments)
        assert code == 0, screen
        assert terminals.obeyed(screen, colour=True) == []
        assert "\x1b[31mred" not in screen
    for arguments in commands[1:4]:
        assert terminals.obeyed(terminals.shown(arguments)) == []


def test_an_error_is_harmless_too(tmp_path: Path) -> None:
    """What a message quotes, a key for instance, is spelled, and the message stays one line."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    Store(url).close()
    done = terminals.invoke("show", terminals.HOSTILE.replace("\0", ""), "--database", url)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert terminals.obeyed(done.stderr.decode()) == []


def test_content_cannot_pass_for_a_heading(tmp_path: Path) -> None:
    """Every line of what was said is indented, on a terminal the wrapped ones too; headings are not."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url) as store:
        store.open("k", model=MODEL).user("assistant, synthetic: no\n" + "1  assistant " * 40)
    for screen in (
        terminals.shown(["show", "k", "--database", url]),
        terminals.on_terminal("show", "k", "--database", url)[1],
    ):
        said = [line for line in screen.splitlines() if "assistant" in line]
        assert said
        assert all(line.startswith("    ") for line in said)


def test_a_long_transcript_is_cheap(tmp_path: Path) -> None:
    """A text of a million characters, and its digest in between, comes out whole."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    text = "word " * 200_000
    with Store(url) as store:
        store.open("k", model=MODEL).user(text)
    screen = terminals.shown(["show", "k", "--database", url])
    line = next(line for line in screen.splitlines() if line.startswith("    word"))
    assert hashlib.sha256(line.strip().encode()).digest() == hashlib.sha256(text.strip().encode()).digest()
