"""Answers on their way: seen at once, stopped and killed in the middle, gone on with, and never obeyed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from conversation_store import Store
from conversation_store.testing import Answer, Fault, MessagesAPI, Streaming
from conversation_store.testing.streams import event
from tests.cli import terminals
from tests.cli.terminals import Terminal
from tests.cli.test_chat import reaching, said, states

MESSAGE: Final[Mapping[str, Any]] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 1},
}
END: Final = (
    event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9})
    + event("message_stop")
)
WORDS: Final = ("It is a small", " thing, ")
SEARCH: Final = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "ants"}}
HALVES: Final = (("ant \\ud83d", "\\udc1c."), (" ", "\\ud83d"))
"""Escapes: of a character in two pieces, and of half of one."""


def begun(*words: str) -> bytes:
    """Make the events an answer begins with: one delta for each of these pieces."""
    start = event("message_start", message=MESSAGE)
    start += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    deltas = (event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in words)
    return start + b"".join(deltas)


def stalled(body: bytes) -> Fault:
    """Send these events, and then nothing more."""
    return Fault.cut(len(body), then="stall", answer=body)


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    """Give an API that takes transcripts as they are."""
    with MessagesAPI(strict=False) as api:
        yield api


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give a database."""
    return f"sqlite:///{tmp_path / 'a.db'}"


def killed(url: str, api: MessagesAPI, *more: str) -> None:
    """Kill a chat in the middle of an answer."""
    api.answer(stalled(begun(*WORDS)))
    with Terminal("chat", "--database", url, *more, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("What is an ant?")
        terminal.until("It is a small thing,")
        time.sleep(0.7)  # what was shown is durable within a quarter of a second
        os.kill(terminal.process.pid, signal.SIGKILL)
        terminal.process.wait(10)
    assert states(url) == ["unknown"]


def interrupted(terminal: Terminal, api: MessagesAPI) -> str:
    """Ask, press Ctrl-C in the middle of the answer, and give what is shown then."""
    api.answer(stalled(begun(*WORDS)))
    terminal.until("you> ")
    terminal.type("What is an ant?")
    terminal.until("It is a small thing,")
    terminal.interrupt()
    return terminal.until("\nyou> ")


def test_words_are_seen_before_the_answer_is_whole(url: str, api: MessagesAPI) -> None:
    """On a terminal, under a heading and indented; while the API says nothing more."""
    api.answer(stalled(begun(*WORDS)))
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("What is an ant?")
        assert "assistant" in terminal.until("    It is a small thing,")
        assert states(url) == ["pending"]


def test_words_come_through_a_pipe_at_once(url: str, api: MessagesAPI) -> None:
    """Each piece is out as it comes, and Ctrl-C in the middle keeps them and ends with 130."""
    api.answer(stalled(begun(*WORDS)))
    arguments, env = terminals.command("chat", "--database", url), terminals.environment(reaching(api))
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"What is an ant?\n")
        came = b""
        while len(came) < len("".join(WORDS)):
            came += process.stdout.read(100) or pytest.fail("the chat ended")
        assert came.decode() == "".join(WORDS)
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=30)
    assert (process.returncode, rest) == (130, b"\n")
    assert b"what came is kept" in stderr
    assert states(url) == ["interrupted"]


def test_ctrl_c_keeps_what_came(url: str, api: MessagesAPI) -> None:
    """The words stay, a line says what can be done, and /continue asks for the rest of them."""
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        assert "/continue" in interrupted(terminal, api)
        assert states(url) == ["interrupted"]
        api.answer("with six legs.")
        terminal.type("/continue")
        assert "going on" in terminal.until("    with six legs.")
        terminal.until("\nyou> ")
        terminal.type("/continue")
        assert "no words to go on from" in terminal.until("\nyou> ")
    assert "It is a small thing," in said(url)[1][1]
    assert states(url) == ["interrupted", "answered"]


def test_retry_after_ctrl_c(url: str, api: MessagesAPI) -> None:
    """/retry sends the same message, and the answer is streamed too."""
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        interrupted(terminal, api)
        api.answer("Six legs.")
        terminal.type("/retry")
        terminal.until("    Six legs.")
        terminal.until("\nyou> ")
    assert said(url) == [("user", "What is an ant?"), ("assistant", "Six legs.")]
    assert api.requests[-1].body["stream"] is True


@pytest.mark.parametrize(
    ("answer", "turns"),
    [
        ("s", ["What is an ant?", "Six legs."]),
        ("k", ["What is an ant?", None, "Six legs."]),
        ("g", ["What is an ant?"]),
    ],
)
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_next_start_offers_to_go_on(
    url: str, api: MessagesAPI, how: str, answer: str, turns: list[str | None]
) -> None:
    """Whether it was stopped or killed, what had come is shown, and a person chooses what is done about it."""
    ended = ["interrupted"] if answer == "g" else ["interrupted", "answered"]
    if how == "killed":
        killed(url, api)
    else:
        with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
            interrupted(terminal, api)
    api.answer("Six legs.")
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        offered = terminal.until("[s/k/g] ")
        assert "It is a small thing," in offered
        assert "21 characters" in offered
        assert ("may have been answered" in offered) == (how == "killed")
        terminal.type(answer)
        terminal.until("\nyou> ")
        terminal.end_of_input()
        assert terminal.end() == 0
    found = [text for _, text in said(url)]
    assert [want or text for want, text in zip(turns, found, strict=True)] == found
    assert states(url) == ended
    assert len(api.requests) == len(ended)


def test_a_model_with_prefill_goes_on_by_it(url: str, api: MessagesAPI) -> None:
    """There what had come and what follows become one turn."""
    killed(url, api, "--model", "claude-haiku-4-5")
    api.answer(" with six legs.")
    done = terminals.invoke("chat", "--database", url, "--on-unknown", "keep-partial", env=reaching(api))
    assert (done.returncode, done.stdout, done.stderr) == (0, b" with six legs.\n", b"")
    assert said(url) == [("user", "What is an ant?"), ("assistant", "It is a small thing, with six legs.")]


def test_nothing_to_keep_for_a_script(url: str, api: MessagesAPI) -> None:
    """Where no word had come, keep-partial says so and sends nothing."""
    api.answer(Fault.delay(60))
    with Terminal("chat", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("Are you there?")
        api.wait(1)
        os.kill(terminal.process.pid, signal.SIGKILL)
        terminal.process.wait(10)
    done = terminals.invoke("chat", "--database", url, "--on-unknown", "keep-partial", env=reaching(api))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no words to go on from" in done.stderr
    assert len(api.requests) == 1


def test_thinking_and_calls_are_dim_and_only_on_a_terminal(url: str, api: MessagesAPI) -> None:
    """A person at a terminal sees them in a dim line each; a pipe gets the words alone."""
    call = {"type": "tool_use", "name": "get_weather", "input": {"city": "Arles"}}
    answer = Answer([call], thinking="They ask\nabout the weather.")
    whole = Answer([{"type": "text", "text": "Let me see."}, call], thinking="They ask\nabout the weather.")
    with Terminal("chat", "one", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        api.answer(whole)
        terminal.type("Is it warm?")
        shown = terminal.until("\nyou> ")
    assert "\x1b[2m    thinking … They ask about the weather.\x1b[0m" in shown
    assert '\x1b[2m    → get_weather {"city":"Arles"}\x1b[0m' in shown
    assert "    Let me see.\r\n" in shown
    assert "chat runs no tools" in " ".join(shown.split())
    api.answer(whole, answer)
    piped = terminals.invoke("chat", "two", "--database", url, said="Is it warm?", env=reaching(api))
    assert piped.stdout == b"Let me see.\n"
    assert b"get_weather" in piped.stderr
    piped = terminals.invoke("chat", "three", "--database", url, said="Is it warm?", env=reaching(api))
    assert piped.stdout == b""


def test_a_pause_is_gone_on_with_under_one_heading(url: str, api: MessagesAPI) -> None:
    """Before and after a pause the words follow each other, the server's tool between them."""
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    paused = Answer([{"type": "text", "text": "Let me look."}, SEARCH], stop_reason="pause_turn")
    rest = Answer([result, {"type": "text", "text": "Six legs."}])
    api.answer(paused, rest, paused, rest)
    with Store(url) as store:
        for key in ("one", "two"):
            tools = [{"type": "web_search_20250305", "name": "web_search"}]
            store.open(key, model="claude-sonnet-5-5", max_tokens=64, tools=tools)
    with Terminal("chat", "one", "--database", url, env=reaching(api)) as terminal:
        terminal.until("you> ")
        terminal.type("What is an ant?")
        terminal.until("    Let me look.")
        terminal.until('→ web_search {"query":"ants"}')
        assert "assistant" not in terminal.until("    Six legs.")
        terminal.until("\nyou> ")
    piped = terminals.invoke("chat", "two", "--database", url, said="What is an ant?", env=reaching(api))
    assert (piped.stdout, piped.stderr) == (b"Let me look.\nSix legs.\n", b"")


def test_blocks_side_by_side_are_shown_one_by_one(url: str, api: MessagesAPI) -> None:
    """Deltas of two texts that alternate are not mixed."""
    texts = [{"type": "text", "text": "one two three four"}, {"type": "text", "text": "five six seven eight"}]
    api.answer(Answer(texts, streaming=Streaming(overlap=True)))
    piped = terminals.invoke("chat", "--database", url, said="Count", env=reaching(api))
    assert piped.stdout == b"one two three four\nfive six seven eight\n"


def test_an_answer_that_the_api_breaks_off(url: str, api: MessagesAPI) -> None:
    """What came stays on its line, the error is the next one, and the chat goes on."""
    body = begun(*WORDS)
    api.answer(Fault.cut(len(body), answer=body), "Still here.")
    done = terminals.invoke("chat", "--database", url, said="What is an ant?\n/continue\n", env=reaching(api))
    assert done.stdout == b"It is a small thing, \nStill here.\n"
    assert done.stderr.count(b"\n") == 1
    assert b"/continue" in done.stderr
    assert done.returncode == 5


def test_no_split_lets_a_control_through(url: str, api: MessagesAPI) -> None:
    """Escape sequences and characters parted between deltas and reads: spelled, or joined, and never obeyed."""
    delta = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    halves, lone = ("".join(f'{delta}"text":"{each}"}}}}\n\n' for each in pair).encode() for pair in HALVES)
    parted = begun(*terminals.HOSTILE, "\x1b", "]52;c;aGk=", "\x07", "\xc2", "\x9b", "31m") + halves
    thought = [{"type": "tool_use", "name": terminals.HOSTILE, "input": {"x": terminals.HOSTILE}}]
    aside = Answer(thought, thinking=terminals.HOSTILE)
    api.answer(Fault.trickle((1, 7, 3), 0.00001, parted + lone + END))
    api.answer(aside, parted + END, stalled(begun(*terminals.HOSTILE, " ", "end.")))
    env = reaching(api, NO_COLOR="1")
    piped = terminals.invoke("chat", "piped", "--database", url, said="one", env=env)
    assert terminals.obeyed(piped.stdout.decode()) == []
    assert "ant 🐜. \\ud83d\n" in piped.stdout.decode()
    with Terminal("chat", "aside", "--database", url, env=env) as terminal:
        terminal.until("you> ")
        terminal.type("two")
        terminal.until("\nyou> ")
        assert "thinking … " in terminal.screen
        assert terminals.obeyed(terminal.screen) == []
    with Terminal("chat", "--database", url, env=env) as terminal:
        terminal.until("you> ")
        terminal.type("three")
        terminal.until("\nyou> ")
        terminal.type("four")
        terminal.until("end.")
        terminal.interrupt()
        terminal.until("\nyou> ")
        assert "ant 🐜." in terminal.screen
        assert terminals.obeyed(terminal.screen) == []
    with Terminal("chat", "--database", url, env=env) as terminal:
        terminal.until("[s/k/g] ")
        terminal.type("k")
        terminal.until("\nyou> ")
        assert terminals.obeyed(terminal.screen) == []
