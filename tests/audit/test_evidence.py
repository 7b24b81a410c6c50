"""Evidence: what a bundle shows is proved offline, what it hides is not in it, and a changed one is found."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from conversation_store import Conversation, Image, Seals, Store, Window
from conversation_store.audit import bundle, erase, evidence, verify
from conversation_store.audit.erase import Reach
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.verify import Report
from conversation_store.errors import CodecError, ContentError, InterruptedAnswerError, NotFoundError, SealError
from conversation_store.record import chain
from tests.audit import bundles, canaries, mutations
from tests.audit.bundles import Made, written
from tests.audit.honest import PICTURES, SETTINGS, Honest, RefusedError, answer
from tests.sealed import KEY, VERIFIER

ROOT: Final = Path(__file__).parents[2]
MANY: Final = int(os.environ.get("CONVERSATION_STORE_BUNDLES", "60"))
PIN: Final = "4711"
MARK: Final = "#PIN#"


def look(data: bytes, **given: Any) -> Report:
    """Check a bundle."""
    return verify.verify(io.BytesIO(data), **given)


def codes(data: bytes, **given: Any) -> set[str]:
    """Say which kinds of faults a bundle has."""
    return {fault.code for fault in look(data, **given).faults}


def lines(data: bytes) -> list[dict[str, Any]]:
    """Read the lines of a bundle's entries."""
    return [json.loads(line) for line in mutations.read(data)[bundle.ENTRIES].splitlines()]


def said(words: str, **changes: Any) -> bytes:
    """Write an answer with these words."""
    message = json.loads(answer(random.Random(1)))
    return json.dumps({**message, "content": [{"type": "text", "text": words}], **changes}).encode()


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_a_bundle_holds_what_was_sent_and_received(database_url: str) -> None:
    """Bodies as replayed, responses as received, attachments, every entry; the same bytes again."""
    with Store(database_url, keep_raw=True) as store:
        chat = store.open("k", **SETTINGS, system="Be brief.")
        chat.user("Look", Image.from_bytes(PICTURES[0]))
        raw = [said("Ants."), said("Bees.")]
        exchanges = [chat.begin(words).finish(each).exchange for words, each in zip(("One?", "Two?"), raw, strict=True)]
        chat.begin("Three?").fail(RefusedError("no"))
        data = written(chat, why="a court asked")
        assert written(store.get("k"), why="a court asked") == data
        members = mutations.read(data)
        assert list(members) == sorted(members)
        for exchange, response in zip(exchanges, raw, strict=True):
            assert members[bundle.request_name(exchange.position)] == chat.replay(exchange)
            assert members[bundle.response_name(exchange.position)] == response
        assert [members[name] for name in members if name.startswith("blobs/")] == [PICTURES[0]]
        told = lines(data)
        assert [each["position"] for each in told] == list(range(chat.version))
        assert [each["kind"] for each in told] == [entry.kind for entry in chat.timeline()]
        assert told[-1]["digest"] == chat.head.hex()
        assert b'"a court asked"' in members[bundle.README]
        report = look(data)
        assert (report.faults, report.is_sound) == ((), True)
        assert "No seal vouches for it" in report.claim
        file = io.BytesIO()
        result = chat.evidence(file, requests="last")
        assert result.requests == (chat.exchanges[-1].position,)
        assert (result.entries, result.revealed, result.blobs, result.sealed) == (chat.version, chat.version, 1, 0)
        assert result.responses == tuple(each.position for each in exchanges)
        assert result.size == len(file.getvalue())
        assert not [each for each in mutations.read(written(chat, requests="none")) if each.startswith("requests/")]


def test_what_is_asked_for_must_be_there(database_url: str, tmp_path: Path) -> None:
    """Positions that are none, a file that cannot be sought in, a conversation that is not: told before all else."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        for reveal in (range(9), [-1], ["1"], [True]):
            with pytest.raises(ContentError, match="reveal"):
                chat.evidence(io.BytesIO(), reveal=reveal)  # type: ignore[arg-type]
        with pytest.raises(ContentError, match="requests"):
            chat.evidence(io.BytesIO(), requests="some")  # type: ignore[arg-type]
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe, pytest.raises(ContentError, match="sought"):
            chat.evidence(pipe)
        os.close(reading)
        with pytest.raises(NotFoundError):
            evidence.write(store._database, "another", chat.id, io.BytesIO())
        with pytest.raises(SealError):
            chat.evidence(io.BytesIO(), pin=str(KEY.sign("example.com/bot\n1\n" + "A" * 43 + "=\n")))


def test_a_damaged_record_makes_no_bundle(database_url: str) -> None:
    """A body that is not the one that was sent, and an entry that is gone, are told and not written."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        chat.begin("Hello").finish(answer(random.Random(1)))
        with store._database.engine.begin() as connection:
            connection.execute(
                text("UPDATE conversation_entry SET body = :b WHERE position = 2"),
                {"b": b'{"role":"user","content":"Bye"}'},
            )
        with pytest.raises(CodecError, match="cannot be proved"):
            written(chat)
        assert codes(written(chat, requests="none")) == {"body"}
        with store._database.engine.begin() as connection:
            connection.execute(text("DELETE FROM conversation_entry WHERE position = 2"))
        with pytest.raises(CodecError, match="entry 2"):
            written(chat, requests="none")


# --- what is not ------------------------------------------------------------------------------------------------------


def _told(chat: Conversation) -> None:
    chat.user(f"My PIN is {PIN}.")
    chat.begin("Say it.").finish(said(f"It is {PIN}."))


def _begun(chat: Conversation) -> None:
    chat.begin("Say it.", prefill=f"It is {PIN}").finish(said(", I think."))


def _refused(chat: Conversation) -> None:
    chat.begin(f"Mine is {PIN}.").finish(said(f"I will not take {PIN}.", stop_reason="refusal"))


def _failed(chat: Conversation) -> None:
    chat.begin(f"Mine is {PIN}.").fail(RefusedError(f"cannot take {PIN}"))


def _broken_off(chat: Conversation) -> None:
    chat.begin(f"Mine is {PIN}.").fail(InterruptedAnswerError("gone", partial=f"It is {PIN}".encode()))


def _pictured(chat: Conversation) -> None:
    chat.append({"role": "user", "content": [{"type": "text", "text": f"{PIN} " + "x" * 1_100_000}]})


CASES: Final[Mapping[str, Callable[[Conversation], None]]] = {
    "told": _told,
    "begun": _begun,
    "refused": _refused,
    "failed": _failed,
    "broken off": _broken_off,
    "a blob": _pictured,
}


def hiding(store: Store, case: str) -> tuple[Conversation, list[int], list[bytes]]:
    """Tell a PIN in a conversation; gives the turns that hold it, and every text that ever did."""
    chat = store.open(case, **SETTINGS)
    chat.begin("Hello").finish(said("Hello."))
    CASES[case](chat)
    chat.user("That was it.")
    entries = [chat._history.entry(n) for n in range(chat.version)]
    texts = [
        each for entry in entries for each in (entry.body, entry.about) if each is not None and PIN.encode() in each
    ]
    texts += [chat.replay(exchange) for exchange in chat.exchanges]
    texts += [raw for exchange in chat.exchanges if (raw := chat.response(exchange).raw) is not None]
    turns = [turn.position for turn in every_turn(chat) if PIN in turn_text(turn)]
    assert turns
    return chat, turns, [text.replace(PIN.encode(), MARK.encode()) for text in texts if PIN.encode() in text]


def every_turn(chat: Conversation) -> list[Any]:
    """Read every turn of the record, prefills too."""
    found = [chat._history.entry(n) for n in range(chat.version)]
    return [each for each in found if each.kind == "turn"]


def turn_text(entry: Any) -> str:
    """Read what a turn says; of one with a blob that is held to be the PIN."""
    return PIN if b'"splices"' in entry.header else entry.body.decode()


def left(data: bytes, texts: list[bytes]) -> set[str]:
    """Say which PINs can be told from a bundle, by words or by trying."""
    members = b"\n".join(mutations.read(data).values())
    values = [members, data, *(bytes.fromhex(each.decode()) for each in set(re.findall(rb"[0-9a-f]{64}", members)))]
    plain = {PIN} if PIN.encode() in re.sub(rb"[0-9a-f]{32,}|\"at\":[0-9]+", b"", members) else set()
    return plain | canaries.pins_among(values, texts, MARK, [PIN, *canaries.PINS[::97]])


@pytest.mark.parametrize("case", CASES)
def test_what_is_hidden_is_not_in_it(database_url: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its words nor a digest by which four digits could be tried; with all revealed both are found."""
    with Store(database_url, keep_raw=True) as store:
        chat, turns, texts = hiding(store, case)
        everything = range(chat.version)
        assert left(written(chat), texts) == {PIN}
        data = written(chat, reveal=[each for each in everything if each not in turns])
        assert look(data).faults == ()
        assert left(data, texts) == set()
        monkeypatch.setattr(erase, "reach", lambda *_: Reach(frozenset(), frozenset()))
        if case != "a blob":
            assert left(written(chat, reveal=[n for n in everything if n not in turns]), texts) == {PIN}


def test_every_pin_is_tried() -> None:
    """All ten thousand, against one bundle of each kind that repeats what is hidden."""
    with Store("sqlite://", keep_raw=True) as store:
        for case in ("told", "refused"):
            chat, turns, texts = hiding(store, case)
            data = written(chat, reveal=[n for n in range(chat.version) if n not in turns])
            told = mutations.read(data)[bundle.ENTRIES].decode()
            found = map(bytes.fromhex, re.findall("[0-9a-f]{64}", told))
            assert canaries.pins_among([data, *found], texts, MARK) == set()


def test_hidden_settings_are_in_no_body(database_url: str) -> None:
    """What a system prompt says is in every body, and an error may quote it: both stay out with it."""
    with Store(database_url, keep_raw=True) as store:
        chat = store.open("k", **SETTINGS, system=f"The PIN is {PIN}.")
        chat.begin("Hello").finish(said("Hello."))
        chat.begin("And?").fail(RefusedError(f"system: {PIN} is no prompt"))
        told = [chat._history.entry(n).body for n in range(chat.version)]
        texts = [*filter(None, told), *(chat.replay(exchange) for exchange in chat.exchanges)]
        texts = [text.replace(PIN.encode(), MARK.encode()) for text in texts if PIN.encode() in text]
        assert len(texts) == 4
        assert left(written(chat), texts) == {PIN}
        data = written(chat, reveal=[n for n in range(chat.version) if n != 1])
        assert look(data).faults == ()
        assert b"Hello." in data
        assert left(data, texts) == set()


def test_a_key_made_of_the_text_is_hidden_with_it(database_url: str) -> None:
    """Whoever knows all but four digits of an imported transcript could try its key."""
    with Store(database_url) as store:
        taken = store.import_messages([{"role": "user", "content": f"Mine is {PIN}."}])
        chat = store.get(taken.id)
        assert chat.key is not None
        assert chat.key.startswith("import:")
        everything = range(chat.version)
        hidden = [entry.position for entry in every_turn(chat)]
        data = written(chat, reveal=[n for n in everything if n not in hidden])
        assert look(data).faults == ()
        assert chat.key.encode() not in data
        assert chat.key.encode() in written(chat)


# --- the record's corners ---------------------------------------------------------------------------------------------


def test_what_was_erased_is_told_and_gone(database_url: str) -> None:
    """The receipt is there, the words are not; back again they are a fault, and without a receipt missing."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        secret = chat.user("The word is formica.")
        chat.begin("Say it.").finish(said("No."))
        before = lines(written(chat))[secret.position]
        chat.erase(secret, reason="asked for it", by="a clerk")
        data = written(chat)
        assert look(data).faults == ()
        assert "were erased" in look(data).claim
        assert b"formica" not in data
        (told,) = json.loads(mutations.read(data)[bundle.ERASURES])
        assert told["erased"]["content"] == [[secret.position, secret.position]]
        hidden = written(chat, reveal=[secret.position])
        assert look(hidden).faults == ()
        assert lines(hidden)[told["position"]]["withheld"] is True
        members = mutations.read(data)
        rows = lines(data)
        rows[secret.position] = before
        assert "erased" in codes(mutations.packed({**members, bundle.ENTRIES: spelled(rows)}))
        receipt = lines(data)[told["position"]]
        entry = chain.entry_digest(
            chat.id, receipt["position"], receipt["at"], receipt["kind"], receipt["header"].encode()
        )
        rows = lines(data)
        rows[told["position"]] = {name: receipt[name] for name in ("log", "position", "digest")} | {
            "entry": entry.hex()
        }
        without = mutations.packed({**members, bundle.ENTRIES: spelled(rows), bundle.ERASURES: b"[]"})
        assert "missing" in codes(without)


def test_a_parent_may_have_been_erased_since(database_url: str) -> None:
    """What a fork goes on from and was erased after the fork is hidden; all of a conversation may be gone."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        secret = chat.user("The word is formica.")
        chat.begin("Say it.").finish(said("No."))
        fork = chat.fork()
        chat.erase(secret, reason="asked for it", by="a clerk")
        data = written(fork.refresh())
        assert look(data).faults == ()
        assert b"Say it." in data
        assert b"formica" not in data
        store.erase("k", reason="asked for it", by="a clerk")
        for each in (store.get(chat.id), fork.refresh()):
            data = written(each)
            assert look(data).faults == ()
            assert b"Say it." not in data


def spelled(rows: list[dict[str, Any]]) -> bytes:
    """Write lines as the format has them."""
    return b"".join(json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n" for row in rows)


def test_a_fork_brings_what_it_goes_on_from(database_url: str) -> None:
    """Turns that its views showed are revealed, of the rest of its parents there are digests; parts of it show none."""
    with Store(database_url) as store:
        chat = store.open("k", **SETTINGS)
        chat.begin("One?").finish(said("Ants."))
        first = chat.turns[1]
        chat.begin("Two?").finish(said("Bees."))
        fork = chat.fork(first).fork()
        fork.begin("And?").finish(said("Wasps."))
        file = io.BytesIO()
        told = fork.evidence(file)
        data = file.getvalue()
        assert look(data).faults == ()
        assert told.inherited > chat.version
        assert len(told.requests) == 1
        assert "over 2 logs" in look(data).claim
        assert b"Ants." in data
        assert b"Bees." not in data
        part = written(fork, reveal=range(fork.version - 1, fork.version))
        assert look(part).faults == ()
        assert b"Ants." not in part
        assert b"requests/" not in part
        other = written(chat.fork(first).fork())
        mixed = {**mutations.read(data), bundle.MANIFEST: mutations.read(other)[bundle.MANIFEST]}
        assert codes(mutations.packed(mixed)) >= {"digest"}


def test_every_way_to_go_on_is_told(database_url: str) -> None:
    """Summaries, windows, views for one request, set aside turns, broken answers gone on with, imports."""
    with Store(database_url, keep_raw=True) as store:
        chat = store.open("k", **SETTINGS, window=Window(max_tokens=60))
        for n in range(6):
            chat.begin(f"What is {n}? " * 9).finish(said(f"It is {n}. " * 9))
        chat.compact("They counted.", keep_last=1)
        chat.begin("On?").fail(InterruptedAnswerError("gone", partial=b"It is"))
        chat.begin("Again?", window=Window(max_tokens=50)).finish(said("Seven."))
        chat.set_aside(chat.turns[-1])
        chat.label(title="Counting")
        chat.begin("Pending?")
        data = written(chat)
        assert look(data).faults == ()
        assert len([name for name in mutations.read(data) if name.startswith("requests/")]) == len(chat.exchanges)
        assert chat.verify() == []


@given(seed=st.integers(0, 5), positions=st.sets(st.integers(0, 60)))
def test_whatever_is_revealed_the_record_is_the_same(seed: int, positions: set[int]) -> None:
    """Every part of every honest record is sound, and has the digests of the whole."""
    with Store("sqlite://", durability="normal") as store:
        honest = Honest(store, random.Random(seed))
        honest.fill(15)
        for chat in honest.chats:
            chat.refresh()
            reveal = {each for each in positions if each < chat.version}
            data = written(chat, reveal=reveal)
            assert look(data).faults == ()
            own = [line for line in lines(data) if line["log"] == 0]
            assert own[-1]["digest"] == chat.head.hex()
            assert {each["position"] for each in own if "header" in each and "withheld" not in each} <= reveal


# --- who vouches for it -----------------------------------------------------------------------------------------------


def test_seals_and_pins_vouch_for_it(database_url: str) -> None:
    """A key, a pin of the seals and one of heads each hold; another key, history or head does not."""
    with Store(database_url, seal=Seals(key=KEY, memory=None)) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("One")
        assert codes(written(chat), key=VERIFIER) == {"signature"}
        pin = store.seal().note
        kept = store.verify().checkpoint.json()
        assert pin is not None
        store.open("another", **SETTINGS).user("Hello")
        chat.user("Two")
        newer = store.seal().note
        chat.user("Three")
        data = written(chat, pin=pin)
        report = look(data, key=VERIFIER, pin=pin)
        assert report.faults == ()
        assert f"covers the first {chat.version - 1} entries" in report.claim
        assert "No seal covers the last 1." in report.claim
        for given in (newer, kept):
            assert look(data, key=VERIFIER, pin=given).faults == ()
        assert look(data, pin=pin).faults == ()
        assert codes(data, key=str(SigningKey("example.com/bot", bytes(32)).verifier)) == {"signature"}
        assert codes(written(chat), key=VERIFIER, pin=pin) == {"pin"}
        other = str(KEY.sign(pin.split("\n\n")[0].replace(pin.split("\n")[2], "A" * 43 + "=") + "\n"))
        assert codes(data, key=VERIFIER, pin=other) == {"pin"}
        with pytest.raises(SealError):
            written(chat, pin=other)
        unsigned = pin.split("\n\n")[0] + "\n\n"
        assert codes(data, key=VERIFIER, pin=unsigned) == {"signature"}
        assert codes(data, pin=kept.replace(chat.id.hex.encode(), b"0" * 32)) == {"pin"}
        assert codes(data, pin=re.sub(rb"[0-9a-f]{64}", b"0" * 64, kept)) == {"pin"}
        with pytest.raises(ContentError):
            look(data, pin=b"nothing")
        # A record made anew by whoever can write the database is whole in itself, and not what was sealed.
        forged = store.open("forged", **SETTINGS)
        forged.user("One")
        members = mutations.read(written(forged))
        proof = mutations.read(data)[bundle.INCLUSION]
        assert codes(mutations.packed({**members, bundle.INCLUSION: proof}), key=VERIFIER) == {"proof"}
        assert codes(mutations.packed(members), pin=kept) == {"pin"}


# --- changed ones -----------------------------------------------------------------------------------------------------


def judge(found: Made, seed: int, other: bytes | None) -> int:
    """Check a bundle and many changed ones; gives how many."""
    assert look(found.data, key=found.key, pin=found.pin).faults == (), found
    count = 0
    for name, data in mutations.mutations(found.data, seed, other):
        report = look(data, key=found.key, pin=found.pin)
        assert not report.is_sound or name.startswith("less"), (found, name)
        count += 1
    return count


def test_every_change_is_found(database_url: str) -> None:
    """Of bundles of honest stores on each engine; each change that is more than hiding."""
    other = None
    for found in list(bundles.made(4, database_url, steps=12))[:3]:
        assert judge(found, 4, other) > 50
        other = found.data


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_change_of_many_is_found() -> None:
    """Ten thousand of them and more."""
    count, other = 0, None
    for seed in range(1000, 1000 + MANY):
        for found in bundles.made(seed):
            count += judge(found, seed, other)
            other = found.data
    assert count > 10_000 * MANY // 60


def test_changes_made_with_care_are_found() -> None:
    """The chain computed anew over other words is whole in itself: only a head, a pin or a seal tells."""
    with Store("sqlite://") as store:
        chat = store.open("k", **SETTINGS)
        chat.user("One")
        kept = store.verify().checkpoint.json()
        data = written(chat)
        rows = lines(data)
        head = chain.genesis(chat.id)
        for row in rows:
            row["at"] += 1
            entry = chain.entry_digest(chat.id, row["position"], row["at"], row["kind"], row["header"].encode())
            head = chain.link(head, entry)
            row["digest"] = head.hex()
        members = mutations.read(data)
        said = bundle.Manifest.read(members[bundle.MANIFEST].replace(chat.head.hex().encode(), head.hex().encode()))
        forged = mutations.packed(
            {**members, bundle.ENTRIES: spelled(rows), bundle.MANIFEST: said.json(), bundle.README: said.readme}
        )
        assert look(forged).faults == ()
        assert codes(forged, pin=kept) == {"pin"}


@given(st.binary(max_size=400))
def test_whatever_a_file_holds_it_is_a_finding(data: bytes) -> None:
    """Bytes of any kind are no bundle, alone, and as any member of one that was packed with care."""
    assert codes(data) == {"zip"}
    members = dict.fromkeys(bundle.REQUIRED, data)
    assert codes(mutations.packed(members)) >= {"manifest"}
    whole = mutations.read(_SOUND)
    for name in (bundle.ENTRIES, bundle.ERASURES, bundle.MANIFEST, bundle.README, bundle.INCLUSION):
        assert codes(mutations.packed({**whole, name: data}))


def _sound() -> bytes:
    with Store("sqlite://") as store:
        chat = store.open("k", **SETTINGS)
        chat.user("One")
        return written(chat)


_SOUND: Final = _sound()


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, members and directories of more than the format allows are findings before they are read."""
    assert codes(_SOUND) == set()
    monkeypatch.setattr(bundle, "LONGEST_LINE", 50)
    assert codes(_SOUND) == {"line"}
    monkeypatch.setattr(bundle, "LONGEST", {**bundle.LONGEST, bundle.MANIFEST: 10})
    assert codes(_SOUND) == {"member"}
    monkeypatch.setattr("conversation_store.audit.archive.MOST_MEMBERS", 2)
    assert codes(_SOUND) == {"zip"}


# --- offline ----------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Check a bundle in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "conversation_store.audit.verify", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)


def test_the_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    """0 sound, 1 findings, 2 what cannot be read or is asked wrongly; the verdict is in words."""
    with Store("sqlite://", seal=Seals(key=KEY, memory=None)) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("One")
        pin = store.seal().note
        data = written(chat)
    path, kept = tmp_path / "bundle.zip", tmp_path / "pin"
    path.write_bytes(data)
    kept.write_text(str(pin))
    done = run(str(path), "--key", VERIFIER, "--pin", str(kept))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sound: The record of conversation ")
    assert "signed by the key you gave, covers the first 3 entries" in done.stdout
    path.write_bytes(data.replace(b"One", b"Two"))
    done = run(str(path))
    assert done.returncode == 1
    assert "body at entry 2 of" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("not sound: This bundle proves nothing as it is")
    for arguments in (
        [str(tmp_path / "none")],
        [str(tmp_path)],
        [str(path), "--key", "none"],
        [],
        [str(path), "--pin", str(path)],
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr


def test_it_needs_no_database_and_no_network(tmp_path: Path) -> None:
    """A fresh process that checks a bundle with a key has loaded nothing of either, and opens no socket."""
    with Store("sqlite://", seal=Seals(key=KEY, memory=None)) as store:
        chat = store.open("k", **SETTINGS)
        chat.user("One")
        store.seal()
        (tmp_path / "bundle.zip").write_bytes(written(chat))
    source = (
        "import sys\n"
        "sys.addaudithook(lambda event, _: sys.exit(9) if event.startswith('socket.') else None)\n"
        "from conversation_store.audit.verify import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))\n"
        "print(*(name for name in sys.modules if name.startswith('conversation_store.storage')))\n"
    )
    command = [sys.executable, "-c", source, str(tmp_path / "bundle.zip"), "--key", VERIFIER]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    *_, loaded, storage = done.stdout.split("\n")[:-1]
    known = {"__main__", "attr", "attrs", "conversation_store", "cryptography", "_cffi_backend"}
    third = {name for name in loaded.split() if not name.startswith(("_", "sitecustomize", "usercustomize"))}
    assert third <= known
    assert storage == ""


def test_any_tool_opens_it(tmp_path: Path) -> None:
    """It is a plain zip, whose sums another program can check."""
    (tmp_path / "bundle.zip").write_bytes(_SOUND)
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
        assert {each.date_time for each in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    subprocess.run(["sha256sum", "--quiet", "-c", "sums.sha256"], cwd=tmp_path / "out", check=True)


def test_the_page_is_the_format() -> None:
    """The description that comes with the package has the words of README.txt as they are written."""
    page = (ROOT / "conversation_store" / "audit" / "evidence.md").read_text(encoding="utf-8")
    assert f"```text\n{bundle._README}```" in page
    for name in (*bundle.REQUIRED, bundle.INCLUSION, bundle.CONSISTENCY):
        assert f"`{name}`" in page
    for longest in {*bundle.LONGEST.values(), bundle.LONGEST_LINE}:
        assert f"{longest:,} bytes" in page
