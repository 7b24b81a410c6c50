"""A conversation at a terminal or through a pipe: durable, resumed, and never ended by an error."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversation_store import Client, Store
from conversation_store.cli import ant
from conversation_store.testing import Answer, Fault, MessagesAPI
from tests.cli import terminals
from tests.cli.terminals import Terminal


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give an API that is only here."""
    with MessagesAPI() as api:
        yield api


def reaching(api: MessagesAPI, **more: str) -> dict[str, str | None]:
    """Give the environment that leads a chat to an API."""
    return {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": api.key, **more}


def said(url: str, key: str = "chat") -> list[tuple[str, str]]:
    """Read a conversation's turns."""
    with Store(url) as store:
        return [(turn.role, turn.text) for turn in store.get(key).turns]


def states(url: str, key: str = "chat") -> list[str]:
    """Read what became of its requests."""
    with Store(url) as store:
        return [exchange.state.value for exchange in store.get(key).exchanges]


def test_offline_twice(database_url: str) -> None:
    """A line is a turn; the answers alone are printed; the second run goes on where the first one ended."""
    first = terminals.run("chat", "--offline", "--database", database_url, said="Hello\nAnts are small\n")
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout.decode() == "Hello!\nYou said: Ants are small\n"
    second = terminals.run("chat", "--offline", "--database", database_url, said="Bye for now")
    assert second.stdout.decode() == "You said: Bye for now\n"
    assert [text for _, text in said(database_url)] == [
        "Hello",
        "Hello!",
        "Ants are small",
        "You said: Ants are small",
        "Bye for now",
        "You said: Bye for now",
    ]
    assert terminals.invoke("verify", "chat", "--database", database_url).returncode == 0


def test_a_person_goes_on_with_yesterday(tmp_path: Path) -> None:
    """At a terminal there is a prompt, the last turns are shown again, and Ctrl-D leaves."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Terminal("chat", "k", "--offline", "--database", url) as terminal:
        assert "0 turns, claude-sonnet-5-5" in terminal.until("you> ")
        terminal.type("Ants are small")
        assert "    You said: Ants are small" in terminal.until("\nyou> ")
        terminal.end_of_input()
        assert terminal.end() == 0
    with Terminal("chat", "k", "--offline", "--database", url) as terminal:
        shown = terminal.until("you> ")
        assert "2 turns" in shown
        assert "Ants are small" in shown
        terminal.type("/help")
        assert "/image PATH" in terminal.until("you> ")
        terminal.type("/quit")
        assert terminal.end() == 0


def test_settings_are_from_now_on(tmp_path: Path, api: MessagesAPI) -> None:
    """A new conversation has what was asked for; another day they change, or stay without being repeated."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    env = reaching(api)
    terminals.invoke("chat", "--database", url, "--system", "Be brief.", "--max-tokens", "99", said="One", env=env)
    terminals.invoke("chat", "--database", url, said="Two", env=env)
    terminals.invoke("chat", "--database", url, "--model", "claude-haiku-4-5", said="Three", env=env)
    asked = [(each.body["model"], each.body["system"], each.body["max_tokens"]) for each in api.requests]
    new = ("claude-sonnet-5-5", "Be brief.", 99)
    assert asked == [new, new, ("claude-haiku-4-5", "Be brief.", 99)]


def test_a_conversation_without_settings_can_be_held(tmp_path: Path, api: MessagesAPI) -> None:
    """What a host keeps elsewhere is given with each request, and its record gets no settings from us."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Store(url) as store:
        store.open("bot")
    done = terminals.invoke("chat", "bot", "--database", url, said="Hello", env=reaching(api))
    assert (done.returncode, done.stdout) == (0, b"Hello!\n")
    with Store(url) as store:
        assert store.get("bot").settings == {}


def test_pictures_go_with_the_next_message(tmp_path: Path) -> None:
    """/image takes a path or an address; what is no picture is an error of its line."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    (tmp_path / "an ant.png").write_bytes(ant.png())
    (tmp_path / "text.png").write_text("no picture")
    lines = (
        f"/image {tmp_path}/an ant.png\n/image {tmp_path}/text.png\n/image\n/image https://example.org/b.jpg\nWhat?\n"
    )
    done = terminals.invoke("chat", "--offline", "--database", url, said=lines)
    assert b"of 160 by 96 pixels" in done.stdout
    assert b"at https://example.org/b.jpg" in done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert done.returncode == 2


def test_commands_and_words(tmp_path: Path) -> None:
    """An unknown command is not sent to the model; two slashes begin words; empty lines are nothing."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    done = terminals.invoke("chat", "--offline", "--database", url, said="/nope\n\n   \n//etc is a folder\n")
    assert done.stdout == b"You said: /etc is a folder\n"
    assert b"no command /nope" in done.stderr
    assert done.returncode == 2


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A line that is no UTF-8 is refused, and the next one is taken."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    done = terminals.invoke("chat", "--offline", "--database", url, said=b"\xff\xfe\nHello\n")
    assert done.stdout == b"Hello!\n"
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (Fault.status(401), "ANTHROPIC_API_KEY"),
        (Fault.status(402), "billing"),
        (Fault.status(403), "another key"),
        (Fault.status(404), "--model"),
        (Fault.status(400), "set aside"),
        (Fault.status(429, error_code="enforced_spend_limit_reached"), "wait"),
        (Fault.status(500), "billed"),
        (Fault.close(), "billed"),
        (Fault.cut(20), "/retry"),
    ],
)
def test_errors_are_lines(tmp_path: Path, api: MessagesAPI, fault: Fault, step: str) -> None:
    """Whatever the API does is one line with the next step, exit code 5, and the chat goes on."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    api.answer(fault, "Still here.")
    done = terminals.invoke("chat", "--database", url, said="One\nTwo\n", env=reaching(api))
    assert done.stdout == b"Still here.\n"
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"conversation-store: ")
    assert step.encode() in done.stderr
    assert done.returncode == 5


def test_an_overloaded_api(tmp_path: Path, api: MessagesAPI) -> None:
    """Attempts made again are told; after the last one the message waits for /retry, which sends it once."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    api.fail(Fault.status(529, retry_after=0.01), times=3)
    done = terminals.invoke("chat", "--database", url, said="Ants\n/retry\n/retry\n", env=reaching(api))
    assert done.stdout == b"You said: Ants\n"
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 4
    assert "trying again" in lines[0]
    assert "overloaded" in lines[2]
    assert "nothing to try again" in lines[3]
    assert said(url) == [("user", "Ants"), ("assistant", "You said: Ants")]


def test_no_network(tmp_path: Path) -> None:
    """Where nobody answers, the line says that nothing was sent; the message is kept."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    env = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_API_KEY": "sk-nobody"}
    done = terminals.invoke("chat", "--database", url, said="Hello\n", env=env)
    assert done.returncode == 5
    assert b"nothing was sent" in done.stderr
    assert b"sk-nobody" not in done.stderr
    assert said(url) == [("user", "Hello")]


def test_without_a_key(tmp_path: Path) -> None:
    """Without any key nothing is begun: one line, exit code 2, and no file."""
    done = terminals.invoke("chat", "--database", str(tmp_path / "a.db"), said="Hello\n")
    assert done.returncode == 2
    assert b"set ANTHROPIC_API_KEY" in done.stderr
    assert not (tmp_path / "a.db").exists()


def test_a_bearer_token_will_do(tmp_path: Path) -> None:
    """ANTHROPIC_AUTH_TOKEN is sent as such."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with MessagesAPI(strict=False) as api:
        env = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_AUTH_TOKEN": "token-1"}
        terminals.invoke("chat", "--database", url, said="Hello\n", env=env)
        assert api.requests[0].headers.get("authorization") == "Bearer token-1"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("No.", stop_reason="refusal"), "declined"),
        (Answer([]), "empty"),
        (Answer("So", stop_reason="max_tokens"), "max_tokens"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, api: MessagesAPI, answer: Answer, expected: str) -> None:
    """A refusal, an empty and a cut answer are told as what they are."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    api.answer(answer)
    done = terminals.invoke("chat", "--database", url, said="Hello\n", env=reaching(api))
    assert expected in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_ctrl_c_while_waiting(database_url: str, api: MessagesAPI) -> None:
    """The exchange is recorded, the prompt is there again, /retry sends the same message once more."""
    api.answer(Fault.delay(60), "Here I am.")
    with Terminal("chat", "--database", database_url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("Are you there?")
        api.wait(1)
        terminal.interrupt()
        assert "may be billed; /retry" in terminal.until("\nyou> ")
        assert states(database_url) == ["failed"]
        terminal.type("/retry")
        terminal.until("Here I am.")
        terminal.until("you> ")
        terminal.interrupt_until("\nyou> ")
        terminal.end_of_input()
        assert terminal.end() == 0
    assert said(database_url) == [("user", "Are you there?"), ("assistant", "Here I am.")]
    assert states(database_url) == ["failed", "answered"]


def test_ctrl_c_in_a_pipe(tmp_path: Path, api: MessagesAPI) -> None:
    """Where nobody is asked, an interrupt ends the chat with 130; the exchange is recorded all the same."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    api.answer(Fault.delay(60))
    arguments = terminals.command("chat", "--database", url)
    env = terminals.environment(reaching(api))
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(b"Hello\n")
        process.stdin.flush()
        api.wait(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert states(url) == ["failed"]


def killed_while_waiting(url: str, api: MessagesAPI) -> None:
    """Kill a chat that waits for its answer."""
    api.answer(Fault.delay(60))
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("Are you there?")
        api.wait(1)
        os.kill(terminal.process.pid, signal.SIGKILL)
        terminal.process.wait(10)
    assert states(url) == ["unknown"]


def test_a_killed_chat_is_resumed(database_url: str, api: MessagesAPI) -> None:
    """After a kill the next start says what is known and offers to send again; no turn is doubled."""
    killed_while_waiting(database_url, api)
    with Terminal("chat", "--database", database_url, env=reaching(api)) as terminal:
        offered = terminal.until("[s/g] ")
        assert "may have been answered and billed" in " ".join(offered.split())
        terminal.type("what?")
        terminal.until("[s/g] ")
        terminal.type("s")
        terminal.until("You said: Are you there?")
        terminal.until("you> ")
        terminal.end_of_input()
        assert terminal.end() == 0
    assert said(database_url) == [("user", "Are you there?"), ("assistant", "You said: Are you there?")]
    assert states(database_url) == ["unknown", "answered"]


def test_a_killed_chat_is_given_up(database_url: str, api: MessagesAPI) -> None:
    """Given up, the request has failed, the message stays, and the conversation goes on."""
    killed_while_waiting(database_url, api)
    with Terminal("chat", "--database", database_url, env=reaching(api)) as terminal:
        terminal.until("[s/g] ")
        terminal.type("g")
        terminal.until("you> ")
        terminal.type("Never mind")
        terminal.until("Never mind")
        terminal.until("\nyou> ")
        terminal.end_of_input()
        assert terminal.end() == 0
    assert states(database_url) == ["failed", "answered"]
    assert [text for _, text in said(database_url)][:2] == ["Are you there?", "Never mind"]


def test_a_killed_chat_and_a_pipe(tmp_path: Path, api: MessagesAPI) -> None:
    """A script decides by an option; without it nothing is sent, and the line names the option."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    killed_while_waiting(url, api)
    refused = terminals.invoke("chat", "--database", url, said="Next\n", env=reaching(api))
    assert refused.returncode == 5
    assert refused.stderr.count(b"\n") == 1
    assert b"--on-unknown" in refused.stderr
    done = terminals.invoke("chat", "--database", url, "--on-unknown", "resend", said="Next\n", env=reaching(api))
    assert done.stdout == b"You said: Are you there?\nYou said: Next\n"
    assert done.returncode == 0


def test_leaving_the_question_open(tmp_path: Path, api: MessagesAPI) -> None:
    """Ctrl-D at the question leaves everything as it is."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    killed_while_waiting(url, api)
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        terminal.until("[s/g] ")
        terminal.end_of_input()
        assert terminal.end() == 0
    assert states(url) == ["unknown"]


def test_two_chats_of_one_conversation(database_url: str, api: MessagesAPI) -> None:
    """While one waits, the other is told so; what the first one added is seen by the second."""
    go = threading.Event()
    api.answer(lambda _: "Slow." if go.wait(60) else None)
    with Terminal("chat", "--database", database_url, env=reaching(api)) as first:
        first.until("you> ")
        first.type("Slowly, please")
        api.wait(1)
        with Terminal("chat", "--database", database_url, env=reaching(api)) as second:
            assert "another process waits" in second.until("you> ")
            second.type("Me too")
            assert "waiting for an answer" in second.until("\nyou> ")
            go.set()
            first.until("Slow.")
            first.until("\nyou> ")
            second.type("Me too")
            second.until("You said: Me too")
            second.until("\nyou> ")
    assert [text for _, text in said(database_url)][:3] == ["Slowly, please", "Slow.", "Me too"]


def test_a_faster_writer(tmp_path: Path, api: MessagesAPI) -> None:
    """When a host adds a turn meanwhile, the person sees it, and sending the message again works."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        with Store(url) as store:
            store.get("chat").user("A word from the host")
        terminal.type("Hello")
        assert "A word from the host" in terminal.until("\nyou> ")
        terminal.type("Hello")
        terminal.until("Hello!")
        terminal.until("\nyou> ")
    assert [text for _, text in said(url)] == ["A word from the host", "Hello", "Hello!"]


def test_nothing_that_is_answered_is_obeyed(tmp_path: Path, api: MessagesAPI) -> None:
    """Answers, errors and history with every control there is: a chat on a terminal lets none through."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    nasty = terminals.HOSTILE
    key = "k" + nasty.replace("\0", "")
    with Client(api_key=api.key, base_url=api.url) as client, Store(url, client=client) as store:
        chat = store.open(key, model="claude-sonnet-5-5", max_tokens=64)
        chat.user(nasty)
        chat.assistant(nasty, reason=nasty)
    api.answer(Answer(nasty, model=nasty), Fault.status(400, message=nasty), Fault.status(401, message=nasty))
    env = reaching(api, NO_COLOR="1")
    with Terminal("chat", key, "--database", url, env=env) as terminal:
        terminal.until("you> ")
        for word in ("one", "two", "three", "/image /nowhere", "/nope"):
            terminal.type(word)
            terminal.until("\nyou> ")
        terminal.end_of_input()
        assert terminal.end() == 0
        assert terminals.obeyed(terminal.screen) == []
        assert "\x1b[31m" not in terminal.screen
        assert r"\x1b[31mred" in terminal.screen
    piped = terminals.invoke("chat", key, "--database", url, said="four", env=env)
    assert terminals.obeyed((piped.stdout + piped.stderr).decode()) == []


def test_an_answer_that_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer is kept in hand, the line says so, and /retry saves it without asking the API again."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    from conversation_store.cli.chat import Chat  # noqa: PLC0415 - the one test that looks inside
    from conversation_store.cli.terminal import Screen  # noqa: PLC0415
    from conversation_store.errors import DatabaseError  # noqa: PLC0415
    from conversation_store.storage.engine import Database  # noqa: PLC0415

    with MessagesAPI() as api, Client(api_key=api.key, base_url=api.url) as client, Store(url, client=client) as store:
        conversation = store.open("k", model="claude-sonnet-5-5", max_tokens=64)
        really = Database.write

        def refuse_the_end(self: Database, *arguments: object, **options: object) -> object:
            if api.requests:
                raise DatabaseError("full", "there is no space left")
            return really(self, *arguments, **options)  # type: ignore[arg-type]

        talk = Chat(conversation, Screen(), person=False, missing={})
        monkeypatch.setattr(Database, "write", refuse_the_end)
        talk._say("Hello")
        monkeypatch.setattr(Database, "write", really)
        shown = capsys.readouterr()
        assert shown.out == "Hello!\n"
        assert "/retry saves it" in shown.err
        talk._retry()
        assert capsys.readouterr() == ("", "conversation-store: the answer is saved now\n")
        assert len(api.requests) == 1
        assert talk.code == 4
    assert said(url, "k") == [("user", "Hello"), ("assistant", "Hello!")]
