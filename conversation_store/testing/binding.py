"""
Signatures of thinking, and what they are bound to.

A thinking block this API answers with is signed over its own text and over everything before it: the system prompt,
the tools, and every earlier block except thinking. The signature holds digests of all that, so that any `MessagesAPI`
can check it, in this process or another. Earlier thinking may be left out from the start or altogether, but not from
the middle. Cache markers, parameters, and the split of a turn into messages do not count.

Source: Messages API documentation, preserved thinking.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from conversation_store.testing.blocks import THINKING, blocks_of, echoed, unmarked
from conversation_store.testing.models import Model
from conversation_store.testing.shapes import reject

CONTROLS: Final = "thinking-binding-controls-2026-08-01"
"""The beta that lets a request choose what happens to a block that does not fit, and tells it in the answer."""
_MAGIC: Final = b"loopback "
_KEY: Final = b"conversation_store.testing"
_MAC: Final = 12
_ADVICE: Final = (
    'Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block". '
    f"That field needs the `{CONTROLS}` beta header."
)


def _digest(value: Any) -> str:
    written = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()[:20]


@dataclass
class _Prefix:
    """What stands before a place in a conversation, as digests; grows block by block."""

    system: str
    tools: str
    history: str = ""
    previous: str | None = None  # the thinking block before
    count: int = 0  # how many of them there are

    def grow(self, role: str, block: Mapping[str, Any]) -> None:
        """Put one block more before the place."""
        kind = block.get("type")
        if kind in THINKING:
            self.previous, self.count = _digest(_plain(block)), self.count + 1
        elif kind == "compaction":  # everything before it is out of sight; one made on demand knows what it was
            found = _read(str(block.get("signature")))
            self.history = found.get("history", "") if found else _digest([role, _plain(block)])
            self.previous, self.count = None, 0
        else:
            self.history = _digest([self.history, role, _plain(block)])


class _Seen(NamedTuple):
    """A thinking block of a request, and what stands before it."""

    path: str
    block: Mapping[str, Any]
    before: _Prefix


class Binder:
    """
    Signs thinking, and checks it when it comes back.

    Args:
        binding: Whether models that bind thinking for newer accounts only do so here.
    """

    def __init__(self, *, binding: bool = False) -> None:
        self._binding = binding
        self._lock = threading.Lock()
        self._scripted: dict[tuple[str, str], list[Mapping[str, Any]]] = {}  # what a signature with a text is bound to
        self._paused: set[str] = set()
        self._pausing: set[str] = set()

    def check(self, body: Mapping[str, Any], model: Model) -> list[dict[str, str]]:
        """
        Check the thinking of a request.

        Returns:
            What happened to blocks that do not fit, as ``input_transformations`` tells it.

        Raises:
            RejectionError: A block was changed, or does not fit where this is an error.
        """
        if not any(block.get("type") in THINKING for message in body["messages"] for block in _dicts(message)):
            return []
        asked = ((body.get("thinking") or {}).get("block_binding") or {}).get("prefix_mismatch_behavior")
        enforced = model.binding == "always" or (model.binding == "newer" and (self._binding or asked is not None))
        told: list[dict[str, str]] = []
        dropping = False
        seen: list[_Seen] = []
        _walk(body, seen)
        for path, block, before in seen:
            sealed = self._sealed(path, block, before, enforced=enforced)
            if not dropping:
                if sealed is None or model.binding == "never":
                    continue
                if sealed["model"] != model.id:
                    told.append(_told("thinking_dropped", path, "model_binding_mismatch"))
                    continue
                changed = _changed(sealed, before)
                if changed is None:
                    continue
                if enforced and asked != "drop_block":
                    name, field = _named(block)
                    words = f"Invalid `{field}` in `{name}` block. The block is bound to a different conversation."
                    raise reject(path, f"{words} {_ADVICE} What changed: {changed}.")
                dropping = enforced
            kind = "thinking_dropped" if dropping else "thinking_mismatch_allowed"
            told.append(_told(kind, path, "prefix_binding_mismatch"))
        return told

    def sign(
        self, body: Mapping[str, Any], content: Sequence[Mapping[str, Any]], model: str, dropped: frozenset[str]
    ) -> list[dict[str, Any]]:
        """
        Return the blocks of an answer with their signatures.

        Args:
            body: The request.
            content: The blocks; thinking that has a signature keeps it, and is bound all the same.
            model: The model that answers in the end.
            dropped: The paths of thinking that was dropped from the request.
        """
        if not any(block.get("type") in THINKING or block.get("type") == "compaction" for block in content):
            return [dict(block) for block in content]
        before = _walk(body, [], dropped)
        switches = [place for place, block in enumerate(content) if block.get("type") == "fallback"]
        counted = {place for place, _ in echoed(content)}
        signed: list[dict[str, Any]] = []
        for place, each in enumerate(content):
            block = dict(each)
            if block.get("type") in THINKING:
                _, field = _named(block)
                switch = next((at for at in switches if at > place), None)
                speaker = model if switch is None else content[switch].get("from", {}).get("model")
                text = _digest(block.get("thinking"))
                sealed = {"model": speaker, "text": text, **asdict(before)}
                if field not in block:
                    block[field] = _write(sealed)
                else:
                    with self._lock:
                        self._scripted.setdefault((str(block[field]), text), []).append(sealed)
            elif block.get("type") == "compaction" and body.get("compaction") and "signature" not in block:
                block["signature"] = _write(asdict(before))
            if place in counted:
                before.grow("assistant", block)
            signed.append(block)
        return signed

    def pause(self, body: Mapping[str, Any], content: Sequence[Mapping[str, Any]]) -> None:
        """Remember a turn that was paused."""
        history = [*body["messages"], {"role": "assistant", "content": content}]
        with self._lock:
            self._paused.add(_walk({"messages": history}, []).history)
            self._pausing |= {block["id"] for block in content if "id" in block}

    def continued(self, messages: Sequence[Mapping[str, Any]]) -> bool | None:
        """Tell whether messages continue a paused turn: True as it was, False changed, None not at all."""
        last = {block.get("id") for block in _dicts(messages[-1])}
        with self._lock:
            if not self._paused:
                return None
            if _walk({"messages": messages}, []).history in self._paused:
                return True
            return False if last & self._pausing else None

    def _sealed(
        self, path: str, block: Mapping[str, Any], before: _Prefix, *, enforced: bool
    ) -> Mapping[str, Any] | None:
        """Return what a block is bound to; None where it is somebody else's, and that is no error."""
        name, field = _named(block)
        signature, text = str(block.get(field)), _digest(block.get("thinking"))
        with self._lock:
            scripted = list(self._scripted.get((signature, text), ()))
        if scripted:  # a test may give one signature to several conversations
            return next((sealed for sealed in scripted if _changed(sealed, before) is None), scripted[-1])
        sealed = _read(signature)
        if sealed is not None and sealed.get("text") == text:
            return sealed
        if not enforced and not _claims(signature):
            return None
        raise reject(path, f"Invalid `{field}` in `{name}` block")


def _named(block: Mapping[str, Any]) -> tuple[str, str]:
    """Return a thinking block's kind, and its key that is opaque."""
    return ("thinking", "signature") if block.get("type") == "thinking" else ("redacted_thinking", "data")


def _told(kind: str, path: str, reason: str) -> dict[str, str]:
    return {"type": kind, "path": path, "reason": reason}


def _changed(sealed: Mapping[str, Any], before: _Prefix) -> str | None:
    """Name what is no longer as it was when a block was signed."""
    if sealed["system"] != before.system:
        return "`system`"
    if sealed["tools"] != before.tools:
        return "`tools`"
    if sealed["history"] != before.history:
        return "an earlier message"
    if before.count > sealed["count"] or (before.count and before.previous != sealed["previous"]):
        return "an earlier thinking block"
    return None


def _walk(body: Mapping[str, Any], seen: list[_Seen], dropped: frozenset[str] = frozenset()) -> _Prefix:
    """Return what stands before the end of a request, noting its thinking since the last compaction."""
    system = [_plain(block) for block in blocks_of(body.get("system"))]
    tools = [_plain(tool) for tool in body.get("tools") or () if not tool.get("defer_loading")]
    before = _Prefix(_digest(system), _digest(sorted(map(_digest, tools))))
    for number, message in enumerate(body["messages"]):
        for place, block in echoed(message.get("content")):
            path = f"messages.{number}.content.{place}"
            if path in dropped:
                continue
            if block.get("type") in THINKING:
                seen.append(_Seen(path, block, _Prefix(**asdict(before))))
            elif block.get("type") == "compaction":
                seen.clear()
            before.grow(str(message.get("role")), block)
    return before


def _dicts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (block for block in blocks_of(message.get("content")) if isinstance(block, Mapping))


def _plain(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in unmarked(block).items() if value is not None}


# -- signatures ----------------------------------------------------------------------------------------------


def _mac(payload: bytes) -> bytes:
    return hmac.digest(_KEY, payload, "sha256")[:_MAC]


def _write(sealed: Mapping[str, Any]) -> str:
    payload = json.dumps(sealed, separators=(",", ":")).encode()
    return base64.b64encode(_MAGIC + payload + _mac(payload)).decode()


def _claims(signature: str) -> bool:
    """Tell whether a signature looks like one of ours, be it damaged."""
    return signature.startswith(base64.b64encode(_MAGIC).decode())


def _read(signature: str) -> dict[str, Any] | None:
    """Return what a signature holds; None where it is damaged or none of ours."""
    try:
        raw = base64.b64decode(signature, validate=True).removeprefix(_MAGIC) if _claims(signature) else b""
    except ValueError:
        return None
    payload, mac = raw[:-_MAC], raw[-_MAC:]
    if not payload or not hmac.compare_digest(mac, _mac(payload)):
        return None
    return dict(json.loads(payload))
