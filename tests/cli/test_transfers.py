"""Export and import at the command line: files, pipes, terminals; faults line by line; nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conversation_store import Image, Origin, Store
from conversation_store.audit.verify import verify
from tests import pictures, sources
from tests.cli import terminals

MODEL = "claude-haiku-4-5"


def filled(folder: Path) -> str:
    """Make a database with two conversations."""
    url = f"sqlite:///{folder / 'a.db'}"
    with Store(url) as store:
        chat = store.open("k", model=MODEL, max_tokens=64)
        chat.user(Image.from_bytes(pictures.png(8, 8)), f"What is this? {terminals.HOSTILE}")
        chat.assistant("An ant.", reason="canned")
        store.open("other", model=MODEL).user("Hello")
    return url


def test_out_and_in(tmp_path: Path) -> None:
    """All conversations go through a file into another database; the second time nothing is new."""
    url, there = filled(tmp_path), f"sqlite:///{tmp_path / 'b.db'}"
    lines = tmp_path / "all.jsonl"
    done = terminals.invoke("export", "--database", url, "--output", str(lines))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert lines.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.glob("*.part")) == []
    done = terminals.invoke("import", str(lines), "--database", there)
    assert done.stdout.startswith(b"2 conversations taken, 7 entries new\n")
    done = terminals.invoke("import", "-", "--database", there, said=lines.read_bytes())
    assert done.stdout == b"2 conversations taken, 0 entries new\n"
    with Store(url) as store, Store(there) as other:
        assert other.get("k").head == store.get("k").head
        assert other.verify() == []
    piped = terminals.invoke("export", "--database", url)
    assert piped.stdout == lines.read_bytes()


def test_faults_are_lines(tmp_path: Path) -> None:
    """What cannot be taken is named with its line, and the rest is taken: exit code 1."""
    url, there = filled(tmp_path), f"sqlite:///{tmp_path / 'b.db'}"
    lines = (
        terminals.invoke("export", "--database", url).stdout.replace(b"An ant.", b"A bee.").splitlines(keepends=True)
    )
    bad = next(n for n, line in enumerate(lines, 1) if b"A bee." in line)
    done = terminals.invoke("import", "-", "--database", there, said=b"".join(lines))
    assert done.returncode == 1
    assert done.stderr.startswith(f"conversation-store: line {bad}: body: the header commits to".encode())
    assert done.stdout.startswith(b"1 conversation taken, 3 entries new, 1 fault\n")


@pytest.mark.parametrize("form", ["messages", "batch", "openai", "markdown", "html"])
def test_every_form_is_written(tmp_path: Path, form: str) -> None:
    """The bytes of the library, through a pipe; a terminal gets nothing that it would obey."""
    url = filled(tmp_path)
    if form == "batch":
        with Store(url) as store:
            store.get("k").user("And?")
    done = terminals.invoke("export", "k", "--format", form, "--database", url)
    with Store(url) as store:
        assert done.stdout == b"".join(store.get("k").export(form))  # type: ignore[arg-type]
    code, screen = terminals.on_terminal("export", "k", "--format", form, "--database", url)
    assert code == 0
    assert terminals.obeyed(screen) == []
    assert terminals.invoke("export", "--format", form, "--database", url).returncode == 2


def test_what_a_form_loses_is_told(tmp_path: Path) -> None:
    """On standard error, so that the output stays what it is."""
    url = filled(tmp_path)
    with Store(url) as store:
        store.get("k").append({"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}, check=False)
    done = terminals.invoke("export", "k", "--format", "openai", "--database", url)
    assert json.loads(done.stdout)
    assert done.stderr == b"conversation-store: openai has no place for: container_upload (1)\n"


def test_a_file_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    """Exit code 2, and no traceback."""
    url = filled(tmp_path)
    done = terminals.invoke("export", "k", "--database", url, "--output", str(tmp_path / "no" / "file"))
    assert done.returncode == 2
    assert done.stderr.endswith(b"No such file or directory\n")


BODY = b"""{"model": "claude-haiku-4-5", "max_tokens": 64, "stream": true, "messages": [
  {"role": "user", "content": "Hello,  \\u00e4", "id": "m1", "at": 1.50},
  {"content": [{"type": "hologram", "depth": 1.0}], "role": "assistant"}
]}"""


def test_a_body_is_imported(tmp_path: Path) -> None:
    """Its messages keep their bytes, and what else they told; again adds nothing, what is new is added."""
    url, file = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "body.json"
    file.write_bytes(BODY)
    done = terminals.invoke("import", str(file), "--key", "k", "--database", url)
    assert done.stdout.startswith(b"1 conversation taken, 2 entries new\n")
    assert terminals.invoke("import", str(file), "--key", "k", "--database", url).stdout.endswith(b" 0 entries new\n")
    file.write_bytes(BODY.replace(b"\n]}", b',\n  {"role": "user", "content": "And?"}\n]}'))
    assert b"1 entry new" in terminals.invoke("import", str(file), "--key", "k", "--database", url).stdout
    with Store(url) as store:
        chat = store.get("k")
        assert dict(chat.settings) == {"model": MODEL, "max_tokens": 64}
        first, second, third = chat.turns
        assert {turn.origin for turn in chat.turns} == {Origin.IMPORTED}
        assert first.wire == b'{"role":"user","content":"Hello,  \\u00e4"}'
        assert second.wire == b'{"content": [{"type": "hologram", "depth": 1.0}], "role": "assistant"}'
        assert json.loads(first.about or b"")["source"] == {"file": "body.json", "line": 2, "id": "m1", "at": 1.5}
        assert third.text == "And?"
        assert chat.verify() == []
    file.write_bytes(BODY.replace(b"Hello", b"Hallo"))
    done = terminals.invoke("import", str(file), "--key", "k", "--database", url)
    assert done.returncode == 1
    assert done.stderr == b"conversation-store: line 2: turn 2 was imported otherwise\n"


def test_an_array_is_imported_and_what_is_none_is_told(tmp_path: Path) -> None:
    """Without a key the text names it; each message that is none is a line, and then nothing is written."""
    url = f"sqlite:///{tmp_path / 'b.db'}"
    array = b'[{"role":"user","content":"Hi"}]'
    for new in (b"1 entry", b"0 entries"):
        assert new in terminals.invoke("import", "-", "--database", url, said=array).stdout
    bad = b'[{"role":"user","content":"Hi"},\n7,\n{"role":"tool","content":"x"},{"role":"user"}]'
    done = terminals.invoke("import", "-", "--database", url, said=bad)
    assert done.returncode == 1
    assert [line.split(b": ")[1:3] for line in done.stderr.splitlines()] == [
        [b"line 2", b"messages.1"],
        [b"line 3", b"messages.2"],
        [b"line 3", b"messages.3"],
    ]
    with Store(url) as store:
        (only,) = store.list()
        assert (only.key or "").startswith("import:")
        store.get(only.id).user("And?")
    assert terminals.invoke("import", "-", "--database", url, said=b"nonsense").returncode == 2


def test_another_programs_transcripts(tmp_path: Path) -> None:
    """Told by their first lines or named; what is left out is counted, what is refused is a line and exit code 1."""
    url, file = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "session.jsonl"
    session = sources.eventful()
    file.write_bytes(session.written())
    done = terminals.invoke("import", str(file), "--database", url)
    first, left, only = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert first == "1 conversation of claude-code taken, 7 turns new, 0 here already"
    assert left.startswith("left out: line of type queue-operation (1), ")
    assert only.endswith(f"claude-code:{sources.SESSION}")
    done = terminals.invoke("import", "-", "--from", "claude-code", "--database", url, said=file.read_bytes() + b"{\n")
    assert done.returncode == 1
    assert (
        done.stderr
        == b"conversation-store: line 16: not JSON: Expecting property name enclosed in double quotes (byte 2)\n"
    )
    assert done.stdout.splitlines()[0] == b"1 conversation of claude-code taken, 0 turns new, 7 here already, 1 refused"
    chats = tmp_path / "chats.json"
    chats.write_text(json.dumps([{"role": "system", "content": "Obey."}, *sources.CHAT[2:5]]))
    for options, turns in ((), b"3 turns"), (("--system", "--prefix", "with:"), b"4 turns"):
        done = terminals.invoke("import", str(chats), *options, "--database", url)
        assert turns in done.stdout
    with Store(url) as store:
        assert store.get("with:chats.json").turns[0].role == "system"


def test_a_file_that_is_nothing_is_a_line(tmp_path: Path) -> None:
    """A SQLite file that is none, and a form that does not fit."""
    url, file = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "torn.db"
    file.write_bytes(b"SQLite format 3\0" + b"\xff" * 200)
    for options in ((), ("--from", "llm")):
        done = terminals.invoke("import", str(file), *options, "--database", url)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert b"Traceback" not in done.stderr


def test_evidence_is_a_file(tmp_path: Path) -> None:
    """A part of a conversation goes into a zip that proves it; what cannot be asked for is told."""
    url, path = filled(tmp_path), tmp_path / "bundle.zip"
    given = ("export", "k", "--evidence", "--database", url)
    done = terminals.invoke(
        *given, "--reveal", "2..3", "--reveal", "0", "--why", "a court asked", "--output", str(path)
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"3 of 4 entries revealed, ")
    assert b"keep the head elsewhere, or seal" in done.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as file:
        assert verify(file).faults == ()
    for wrong in (
        (*given,),
        (*given, "--reveal", "9..3", "--output", str(path)),
        (*given, "--reveal", "x", "--output", str(path)),
        ("export", "--evidence", "--database", url, "--output", str(path)),
        ("export", "k", "--reveal", "3", "--database", url),
    ):
        done = terminals.invoke(*wrong)
        assert (done.returncode, done.stdout) == (2, b""), wrong
    done = terminals.invoke(*given, "--reveal", "3..9999999999", "--output", str(path))
    assert done.returncode == 2
    assert b"9999999999 is no position" in done.stderr
    assert not list(tmp_path.glob("*.part"))
