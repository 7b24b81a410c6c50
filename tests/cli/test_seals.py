"""Seals from the command line: a key, a checkpoint, a proof; and what an auditor does with them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversation_store import Store
from conversation_store.audit.seals import proven
from conversation_store.record.notes import Checkpoint, Note
from tests import sealed
from tests.cli import terminals
from tests.sealed import KEY, NAME, VERIFIER, Sealed


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> Iterator[Sealed]:
    """Give a database with two conversations, and a key beside it."""
    Store(database_url).close()
    KEY.write(tmp_path / "key")
    with sealed.database(database_url, tmp_path) as found:
        found.say("a", "one")
        found.say("b", "one")
        yield found


def options(kept: Sealed, folder: Path) -> list[str]:
    """Give the options that name database, key and memory."""
    return ["--database", kept.url, "--key", str(folder / "key"), "--memory", str(folder / "memory")]


def test_a_key_is_made_and_what_checks_it_is_printed(tmp_path: Path) -> None:
    """The key goes to a new file of the owner's, the verifier key to the terminal; never over another file."""
    path = tmp_path / "fresh"
    verifier = terminals.shown(["seal", "--generate-key", str(path), "--name", NAME]).strip()
    assert verifier.startswith(f"{NAME}+")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert terminals.shown(["seal", "--verifier-key", "--key", str(path)]).strip() == verifier
    again = terminals.invoke("seal", "--generate-key", str(path), "--name", NAME)
    assert (again.returncode, again.stdout) == (2, b"")
    for wrong in (["--generate-key", str(tmp_path / "x")], ["--verifier-key"], ["--key", str(tmp_path / "none")]):
        assert terminals.invoke("seal", *wrong).returncode in {2, 3}
    assert terminals.invoke("seal", "--generate-key", str(tmp_path / "x"), "--name", "a b").returncode == 2
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_is_printed_kept_and_held_against(kept: Sealed, tmp_path: Path) -> None:
    """What seal prints is a note; verify takes it as a pin with the key, and finds what was done meanwhile."""
    done = terminals.invoke("seal", *options(kept, tmp_path), "--anchor", str(tmp_path / "anchor"))
    assert done.returncode == 0, done.stderr
    assert b"2 seals added, 2 in all" in done.stderr
    note = done.stdout.decode()
    assert Checkpoint.read(Note.read(note).text).size == 2
    assert (tmp_path / "anchor").read_text() == f"{note}\n"
    (tmp_path / "pin").write_text(note)
    verify = ["verify", "--database", kept.url, "--key", VERIFIER, "--pin", str(tmp_path / "pin")]
    assert "no fault" in terminals.shown(verify)
    with Store(kept.url) as store:
        gone = store.get("b").id
    kept.delete(gone)
    found = terminals.invoke(*verify)
    assert found.returncode == 1
    assert str(gone).encode() in found.stdout
    assert b"sealed" in found.stdout
    assert b"sealed: expected" in found.stdout
    own = terminals.invoke("verify", "a", "--database", kept.url, "--key", VERIFIER)
    assert own.returncode == 0, "the seals of this one are whole"


def test_a_rollback_is_told_with_the_next_step(kept: Sealed, tmp_path: Path) -> None:
    """One line that says what is remembered and found, and how to go on; and going on goes on."""
    backup = kept.backup()
    assert terminals.invoke("seal", *options(kept, tmp_path)).returncode == 0
    kept.restore(backup)
    refused = terminals.invoke("seal", *options(kept, tmp_path))
    assert (refused.returncode, refused.stdout) == (4, b"")
    assert b"gone" in refused.stderr
    kept.seal(memory=None)
    kept.say("a", "two")
    kept.seal(memory=None)
    kept.say("b", "two")
    (tmp_path / "trusted").write_text((tmp_path / "memory").read_text())
    went_on = terminals.invoke("seal", *options(kept, tmp_path), "--new-epoch", "--trusted", str(tmp_path / "trusted"))
    assert went_on.stdout.decode().startswith(f"{NAME}/2\n3\n")
    assert terminals.invoke("seal", *options(kept, tmp_path), "--trusted", str(tmp_path / "no")).returncode == 2


def test_an_anchor_that_fails_is_a_finding(kept: Sealed, tmp_path: Path) -> None:
    """The checkpoint is printed all the same; the failure is told, and the exit code says so."""
    done = terminals.invoke(
        "seal",
        *options(kept, tmp_path),
        *(
            "--anchor",
            str(tmp_path / "none" / "anchor"),
            "--anchor-command",
            "false",
            "--anchor-url",
            "http://127.0.0.1:1/",
        ),
    )
    assert done.returncode == 1
    assert done.stdout.startswith(NAME.encode())
    assert done.stderr.count(b"not taken by") == 3


def test_a_proof_is_written_for_somebody_else(kept: Sealed, tmp_path: Path) -> None:
    """What prove prints is checked with the verifier key alone; before a seal there is nothing to prove."""
    assert terminals.invoke("prove", "a", "--database", kept.url).returncode == 4
    terminals.invoke("seal", *options(kept, tmp_path))
    proof = terminals.invoke("prove", "a", "--database", kept.url).stdout
    said, _ = proven(proof, VERIFIER)
    with Store(kept.url) as store:
        assert said.conversation == store.get("a").id


def test_there_may_be_nothing_to_seal(tmp_path: Path) -> None:
    """An empty database is said to be one."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    assert terminals.invoke("seal", "--database", url, "--origin", NAME).returncode == 3
    Store(url).close()
    done = terminals.invoke("seal", "--database", url, "--origin", NAME)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"nothing to seal" in done.stderr
