"""
Preflight: what a request will be, and whether the API would take it, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final

from attrs import frozen

from conversation_store import windows
from conversation_store.api import caching, rules
from conversation_store.api import request as requests
from conversation_store.api.request import Marker, Request, Settings
from conversation_store.api.rules import Asked, Finding
from conversation_store.api.rules.reading import faults, is_mere_text, tried
from conversation_store.attachments import Detached, drafted
from conversation_store.errors import ContentError, RuleViolationError
from conversation_store.history import History, fields_for
from conversation_store.record import canonical, codec
from conversation_store.record.blocks import ABSENT
from conversation_store.record.codec import Content
from conversation_store.record.splices import Parted
from conversation_store.record.turns import Origin, fields_of
from conversation_store.storage import identity
from conversation_store.windows import Shown


@frozen(kw_only=True)
class Said:
    """
    What is asked for with a request.

    Attributes:
        content: The user's words, empty to send the history as it stands.
        prefill: The beginning of the answer, None for none.
        overrides: Settings for this request alone.
        check: False lets through what the rule book would refuse.
        allow_unlisted_model: Take a prefill to a model of which nothing is known.
        sending: Whether the request goes out as it is.
        looking: Whether it is only asked what the rule book would say to the next send.
        stream: Whether the answer is to be streamed.
        on: The day to judge it by, None for today (UTC).
    """

    content: Sequence[Content] = ()
    prefill: str | Sequence[Content] | None = None
    overrides: Mapping[str, Any]
    check: bool = True
    allow_unlisted_model: bool = False
    sending: bool = True
    looking: bool = False
    stream: bool = False
    on: date | None = None

    def written(self, first: int = 0) -> list[tuple[Origin, Parted]]:
        """
        Write the messages that are new with this request; *first* is the index of the first one of them.

        A prefill stays whole: it is read again by itself, and joined to the answer.

        Raises:
            ContentError: Something is no content.
        """
        written = []
        if self.content:
            message = codec.parted("user", self.content, f"messages.{first}")
            written.append((origin_of("user", message.body), message))
        if self.prefill is not None and not isinstance(self.prefill, (str, list, tuple)):
            raise ContentError("prefill", "give a string, or a list of text blocks")
        if self.prefill is not None:
            pieces = (self.prefill,) if isinstance(self.prefill, str) else tuple(self.prefill)
            wire = codec.wire("assistant", pieces, f"messages.{first + len(written)}")
            written.append((Origin.PREFILL, Parted(wire)))
        return written


@frozen(kw_only=True)
class Planned:
    """
    A request that is decided, and what beginning it must write.

    Attributes:
        request: The request.
        findings: Everything the rule book says about it.
        new: The turns to be written with it, their long strings kept already.
        overrides: Settings for this exchange alone.
        prefill: The prefill's ``content``, None for none.
        model: The model asked.
        stream: Whether the answer is to be streamed.
        markers: The cache breakpoints written into its messages.
        settings: All its parameters but the messages.
        shown: The turns it shows besides the new ones; None where an old request is made again.
    """

    request: Request
    findings: Sequence[Finding]
    new: Sequence[tuple[Origin, Detached]]
    overrides: Settings
    prefill: Any
    model: str
    stream: bool = False
    markers: Sequence[Marker] = ()
    settings: bytes = b"{}"
    shown: Shown | None = None


@frozen(kw_only=True)
class _Draft:
    """A request as it would be: its settings, its new turns as they were said, and what the rule book says."""

    body: bytes
    params: Mapping[str, Any]
    version: str
    betas: tuple[str, ...]
    overrides: Settings
    secrets: Mapping[str, str]
    new: Sequence[tuple[Origin, Parted]]
    findings: Sequence[Finding]
    lifetime: str | None
    """For how long what breakpoints of ours mark shall be cached; None where there are none."""
    shown: Shown


def findings(history: History, said: Said) -> Sequence[Finding]:
    """
    Say what the rule book finds in a request; nothing is written.

    Raises:
        ContentError: Something is no content or no setting.
    """
    return _draft(history, said).findings


def _draft(history: History, said: Said, shown: Shown | None = None) -> _Draft:
    settings = history.settings
    for name, value in said.overrides.items():
        if value is ABSENT and name not in {"version", "betas", "cache", "window"}:
            raise ContentError(name, "an override replaces a setting and removes none: use update()")
    overrides, secrets = Settings().updated({**_carried_on(history), **said.overrides})
    new = said.written(history.messages.count)
    parts = [_drafted(origin, message) for origin, message in new]
    shown = windows.shown(history, overrides, parts) if shown is None else shown
    messages = shown.messages
    outline, size = tried(shown.outline, messages, parts)
    lifetime, own = _lifetime(overrides.cache or settings.cache), bool(outline.marked("marker"))
    if lifetime is not None:
        before = canonical.object_of(requests.merged(settings.body, overrides.body))
        control = caching.automatic(before, lifetime, own=own, prefill=said.prefill is not None)
        overrides = overrides if control is None else overrides.updated({"cache_control": control})[0]
    body = requests.merged(settings.body, overrides.body, stream=said.stream)
    version, betas = history.headers_for(settings, overrides)
    params = canonical.object_of(body)
    if not said.allow_unlisted_model:
        history.options.take_model(params.get("model"))
    asked = Asked(
        params=params,
        version=version,
        betas=frozenset(betas),
        on=said.on or datetime.fromtimestamp(identity.now() / 1e6, UTC).date(),
        outline=outline,
        prefill=said.prefill is not None,
        sending=said.sending,
        looking=said.looking,
        stream=said.stream,
        size=messages.size + size + len(body),
        models=history.options.models,
        allow_unlisted_model=said.allow_unlisted_model,
    )
    return _Draft(
        body=body,
        params=params,
        version=version,
        betas=betas,
        overrides=overrides,
        secrets=secrets,
        new=new,
        findings=rules.check_request(asked, history.judged(body, asked)),
        lifetime=None if own else lifetime,
        shown=shown,
    )


COUNTED: Final = frozenset(
    {
        "model",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "cache_control",
        "speed",
        "context_management",
        "mcp_servers",
        "compaction",
    }
)
"""The parameters that tokens are counted with. Source: Messages API documentation, Token counting, 2026-10."""


def counting(history: History, said: Said) -> Request:
    """
    Build the request that asks for the number of its tokens; nothing is written.

    Raises:
        ContentError: Something is no content or no setting.
        ConfigurationError: A secret that is to be sent is not known here.
    """
    draft = _draft(history, said)
    members = canonical.members(draft.body)
    asked = {name: draft.body[each.start : each.end] for name, each in members.items() if name in COUNTED}
    body = canonical.compose(asked)
    secrets = {**history.known_secrets, **draft.secrets}
    requests.need_secrets(body, secrets)
    parts = [_drafted(origin, message) for origin, message in draft.new]
    return draft.shown.messages.request(parts, body, version=draft.version, betas=draft.betas, secrets=secrets)


def plan(history: History, said: Said, shown: Shown | None = None) -> Planned:
    """
    Decide everything about a request but its place in the log.

    *shown* are the turns it shows; those of the view, as far as its window goes, where None.

    Raises:
        ContentError: Something is no content or no setting.
        RuleViolationError: The API would refuse it; every error is in it.
        UnlistedModelError: Nothing is known of the model, and the store takes only those it knows.
        ConfigurationError: A secret that is to be sent is not known here.
        DatabaseError: An attachment could not be kept.
    """
    draft = _draft(history, said, shown)
    messages = draft.shown.messages
    errors = [finding for finding in draft.findings if finding.severity == "error"]
    if said.check and errors:
        raise RuleViolationError(errors)
    if said.sending:
        requests.need_secrets(draft.body, {**history.known_secrets, **draft.secrets})
    at = identity.now()
    new = [(origin, history.kept_apart(message, at)) for origin, message in draft.new]
    history.secrets |= draft.secrets
    params = draft.params
    parts = [_part(history, origin, each) for origin, each in new]
    markers: Sequence[Marker] = ()
    if draft.lifetime is not None:
        prefill = said.prefill is not None
        markers = caching.markers(messages, parts, params, draft.lifetime, prefill=prefill)
    request = partial(
        messages.request,
        parts,
        draft.body,
        version=draft.version,
        betas=draft.betas,
        secrets=history.known_secrets,
        markers=markers,
    )
    return Planned(
        request=history.while_kept([blob for _, each in new for blob in each.blobs], request, at),
        markers=markers,
        findings=draft.findings,
        new=new,
        overrides=draft.overrides,
        prefill=canonical.object_of(draft.new[-1][1].body).get("content") if said.prefill is not None else None,
        model=str(params.get("model", "")),
        stream=said.stream,
        settings=draft.body,
        shown=draft.shown,
    )


def _lifetime(cache: str | None) -> str | None:
    """Say for how long what is sent shall be cached; None where nobody asked."""
    return {"auto": "5m", "1h": "1h"}.get(cache or "")


def _carried_on(history: History) -> Mapping[str, Any]:
    """
    Name the container in which code waits for the results of its calls: it must go along with them.

    Source: Messages API documentation, Programmatic tool calling, 2026-10.
    """
    messages = history.messages
    if not messages.calling or messages.calling[-1] not in messages.last_spoken:
        return {}
    of, position = messages.places[messages.calling[-1]]
    request = fields_of(history.entry_of(of, position).header).get("request")
    if request is None or "container" in history.settings.params:
        return {}
    name = container_of(history.outcome_at(of, request)[1].get("envelope", {}))
    return {} if name is None else {"container": name}


def container_of(envelope: Mapping[str, Any]) -> str | None:
    """Name the container an answer came from; None where it had none, or its time is over and it would be refused."""
    container = envelope.get("container")
    if not isinstance(container, Mapping) or not isinstance(name := container.get("id"), str):
        return None
    try:
        until = datetime.fromisoformat(str(container.get("expires_at")))
    except ValueError:
        return name
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return name if until.timestamp() * 1_000_000 > identity.now() else None


def binding(history: History) -> list[Finding]:
    """
    Warn where the next request differs from what the newest thinking was made with: it would be lost or refused.

    Thinking is bound to the system prompt, the tools and every earlier message (newer models check it).

    Source: Messages API documentation, Preserved thinking, 2026-10.
    """
    messages = history.messages
    if not messages.thinking:
        return []
    index = messages.thinking[-1]
    of, position = messages.places[index]
    made = fields_of(history.entry_of(of, position).header).get("request")
    if made is None:
        return []
    changed = history.changed_since(of, made, index)
    path = f"messages.{messages.message_of(index)}"
    return [
        Finding(
            "thinking_bound",
            "warning",
            path,
            index,
            f"{what} changed since turn {position} was made; its thinking is bound to what was there, and newer models "
            "refuse or drop it: undo the change, or go on without the thinking",
            "drop_thinking",
        )
        for what in changed
    ]


def _part(history: History, origin: Origin, message: Detached) -> requests.Part:
    header = canonical.header({**fields_for(origin, message), **message.fields()})
    return requests.part_of(header, message.body, message.inserts(history.database))


def _drafted(origin: Origin, message: Parted) -> requests.Part:
    """Take a message that is not kept yet for a part of the request."""
    splices, strings = drafted(message)
    header = canonical.header(
        {
            **fields_for(origin, Detached(body=message.body, splices=splices)),
            **({"splices": [[each.offset, each.commitment, each.encoding] for each in splices]} if splices else {}),
        }
    )
    return requests.part_of(header, message.body, strings)


def message_faults(message: Parted, path: str) -> list[Finding]:
    """Check one message by itself; *path* leads to it, with a dot at its end."""
    if is_mere_text(message.body):
        return []
    if not message.cuts:
        return rules.check_message(canonical.object_of(message.body), path)
    return faults(_drafted(Origin.HUMAN, message).pieces, path)


def origin_of(role: str, wire: bytes) -> Origin:
    """Say who made a message that a caller gave."""
    if role == "assistant":
        return Origin.SYNTHETIC
    if role == "system":
        return Origin.SYSTEM
    return Origin.TOOL if b'"tool_result"' in wire and _holds_result(wire) else Origin.HUMAN


def _holds_result(wire: bytes) -> bool:
    content = canonical.object_of(wire).get("content")
    return isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)
