"""The demonstration proves what it shows, in two processes and without a network."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conversation_store import Client, Store
from conversation_store.api import models
from conversation_store.cli import ant, demo
from conversation_store.cli.commands import commands
from conversation_store.cli.terminal import Screen
from conversation_store.record import media
from conversation_store.testing import MessagesAPI
from tests.cli import terminals


def test_the_guide_page_runs_end_to_end(tmp_path: Path) -> None:
    """Four chapters, every request with its size, a second process that goes on, and a file that holds it all."""
    path = tmp_path / "demo.db"
    done = terminals.run("demo", "--database", str(path))
    assert (done.returncode, done.stderr) == (0, b"")
    screen = done.stdout.decode()
    sizes = re.findall(r"POST /v1/messages, ([\d,]+) bytes", screen)
    assert len(sizes) == 10
    assert screen.index("A second process") > screen.index("4b. Vision")
    assert "assistant, begun by a prefill" in screen
    assert "⟦The answer is (⟧C" in screen
    assert "image/png of 160 by 96 pixels" in screen
    assert "5 conversations, 53 entries: every chain verified" in screen
    assert "the record replays the bytes that the API received" in screen
    assert str(path) in screen
    with Store(f"sqlite:///{path}") as store:
        found = {each.key: store.get(each.id) for each in store.list()}
        assert sorted(map(str, found)) == sorted(demo.keys_of("guide"))
        origins = [turn.origin.value for turn in found["guide/turns"].turns]
        assert origins == ["human", "synthetic", "human", "model", "human", "model"]
        bodies = [len(each.replay(exchange)) for each in found.values() for exchange in each.exchanges]
        assert sorted(bodies) == sorted(int(each.replace(",", "")) for each in sizes)
        assert store.verify() == []


def test_the_second_process_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first process cannot pass on in memory the second one has: it is started with the file's path alone."""
    started: list[list[str]] = []
    really = subprocess.run

    def run(command: list[str], **options: Any) -> object:
        started.append(command)
        return really(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    done = CliRunner().invoke(commands, ["demo", "--database", str(tmp_path / "demo.db")])
    assert done.exit_code == 0, done.output
    assert started[0][1:] == ["-m", "conversation_store.cli", "resume-demo", str(tmp_path / "demo.db"), "guide"]
    assert "2. Several turns: 4 turns found" in done.output


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    """A second run refuses the file of the first; with --keep it adds to it and changes nothing."""
    path = str(tmp_path / "demo.db")
    assert terminals.invoke("demo", "--database", path).returncode == 0
    before = Path(path).read_bytes()
    refused = terminals.invoke("demo", "--database", path)
    assert refused.returncode == 2
    assert b"exists" in refused.stderr
    assert Path(path).read_bytes() == before
    assert terminals.invoke("demo", "--database", path, "--keep").returncode == 0
    with Store(f"sqlite:///{path}") as store:
        keys = {each.key for each in store.list()}
    assert keys == {*demo.keys_of("guide"), *demo.keys_of("guide-2")}


def test_only_a_file_will_do() -> None:
    """The demonstration is for a SQLite file; another database is refused before anything is done."""
    done = terminals.invoke("demo", "--database", "postgresql+psycopg://somewhere/else")
    assert done.returncode == 2
    assert b"SQLite file" in done.stderr


def test_bytes_that_differ_are_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the API received other bytes than the record replays, the demonstration says so and fails."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with MessagesAPI() as api, Client(api_key=api.key, base_url=api.url) as client, Store(url, client=client) as store:
        conversation = store.open("k", model=demo.MODEL, max_tokens=16)
        conversation.send("Hello")
        received = [each.raw for each in api.requests]
        assert demo.prove(Screen(), [conversation], received)
        assert not demo.prove(Screen(), [conversation], [received[0] + b" "])
        assert not demo.prove(Screen(), [conversation], [])
    assert "other bytes" in capsys.readouterr().out


def test_the_prefill_model_is_chosen_by_the_data() -> None:
    """It takes a prefill, is active, and no other such model is promised for longer."""
    chosen = models.load().get(demo.prefill_model())
    assert chosen is not None
    assert chosen.prefill
    assert chosen.status == "active"
    last = chosen.retires or chosen.not_before or date.min
    others = models.load().where(status="active", prefill=True)
    assert all((each.retires or each.not_before or date.min) <= last for each in others)
    main = models.load().get(demo.MODEL)
    assert main is not None
    assert main.status == "active"


def test_the_picture_is_a_picture() -> None:
    """The ant is a whole PNG, long enough to be kept as a blob."""
    data = ant.png()
    assert media.measure(data) == media.Media("image/png", ant.WIDTH, ant.HEIGHT)
    assert len(data) > 1024
