"""
Rules of a request as a whole: its limits, its end, and what settings and messages make of each other.

To add a rule: write a generator of an ``Asked``, cite its source, and name it in ``OF_THE_WHOLE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from conversation_store.api.rules.asked import Asked
from conversation_store.api.rules.blocks import kind_of
from conversation_store.api.rules.findings import Finding, error, warning
from conversation_store.api.rules.order import (
    MANY_IMAGE_SIDE,
    SERVER_CALLS,
    Marked,
    Outline,
    is_server_result,
    unanswered,
)
from conversation_store.api.rules.settings import part_of
from conversation_store.api.rules.tools import given
from conversation_store.record.media import REQUEST_BYTES

MOST_MESSAGES: Final = 100_000
_MOST_MARKERS: Final = 4
_MANY_IMAGES: Final = 20
_CERTAIN_BYTES: Final = 32
_LIKELY_BYTES: Final = 8
"""Bytes of JSON a token stands for at most: certainly, and in all likelihood. Usual are three or four."""


def _each(marks: Sequence[Marked], make: Callable[..., Finding], message: str) -> Iterator[Finding]:
    for mark in marks:
        yield make(mark.path, message, turn=mark.turn)


# --- limits ------------------------------------------------------------------------------------------------------


def some_message(asked: Asked) -> Iterator[Finding]:
    """There is at least one message and at most 100,000. Source: Create a message, 2026-11."""
    count = asked.outline.count
    if count == 0:
        yield error("messages", "at least one message is required: add a user turn first")
    elif count > MOST_MESSAGES:
        yield error("messages", f"{count} messages; at most {MOST_MESSAGES} are allowed")


def body_size(asked: Asked) -> Iterator[Finding]:
    """A request has at most 32 MB. Source: Messages API documentation, Errors, 2026-08."""
    if asked.size > REQUEST_BYTES:
        yield error("messages", f"the request has {asked.size} bytes; at most {REQUEST_BYTES} are allowed (413)")


def prompt_length(asked: Asked) -> Iterator[Finding]:
    """
    The prompt fits the model's context; counted from below, as no tokenizer is at hand.

    Source: Messages API documentation, Context windows, 2026-08.
    """
    if asked.model is None:
        return
    text, context = asked.size - asked.outline.attached, asked.model.context
    if text > context * _CERTAIN_BYTES:
        yield error("messages", f"prompt is too long: {text} bytes cannot be {context} tokens")
    elif text > context * _LIKELY_BYTES:
        yield warning("messages", f"prompt is likely too long: {text} bytes for {context} tokens")


def image_count(asked: Asked) -> Iterator[Finding]:
    """A request has at most 600 images, or 100 in a small context. Source: Vision, 2026-08."""
    if asked.model is not None and asked.outline.images > asked.model.image.per_request:
        yield error("messages", f"too many images: {asked.outline.images} > {asked.model.image.per_request}")


def many_images(asked: Asked) -> Iterator[Finding]:
    """Among more than 20 images none has a side over 2000 pixels. Source: Vision, 2026-08."""
    if asked.outline.images > _MANY_IMAGES:
        for mark in asked.outline.marked("large_image"):
            why = "At least one of the image dimensions exceed max allowed size for many-image requests"
            message = f"{why}: {MANY_IMAGE_SIDE} pixels; this one has {mark.word}"
            yield Finding("", "error", mark.path, mark.turn, message, "set_aside")


def pdf_pages(asked: Asked) -> Iterator[Finding]:
    """A PDF has at most 600 pages, or 100 in a small context. Source: PDF support, 2026-08."""
    for mark in asked.outline.marked("pdf"):
        if asked.model is not None and int(mark.word) > asked.model.pdf_pages:
            message = f"a PDF of {mark.word} pages; at most {asked.model.pdf_pages} are allowed for this model"
            yield warning(mark.path, message, turn=mark.turn)


# --- caching -----------------------------------------------------------------------------------------------------


def _markers(asked: Asked) -> list[Marked]:
    """List the explicit cache markers in the order of the prompt: tools, system, messages."""
    found = [
        Marked(f"{name}.{n}.cache_control", None, marker.get("ttl") or "5m")
        for name in ("tools", "system")
        for n, each in enumerate(asked.params[name] if isinstance(asked.params.get(name), list) else ())
        if isinstance(each, Mapping) and isinstance(marker := each.get("cache_control"), Mapping) and marker
    ]
    return [*found, *asked.outline.marked("marker")]


def _automatic(asked: Asked) -> tuple[str, str | None] | None:
    """Give the automatic marker's lifetime, and that of the marker it falls on; None without one."""
    wanted = part_of(asked, "cache_control")
    if not wanted:
        return None
    last = asked.outline.last.blocks[-1] if asked.outline.last is not None and asked.outline.last.blocks else {}
    there = last.get("cache_control") if isinstance(last, Mapping) else None
    return wanted.get("ttl") or "5m", (there.get("ttl") or "5m") if isinstance(there, Mapping) and there else None


def markers_counted(asked: Asked) -> Iterator[Finding]:
    """There are four cache markers at most, the automatic one included. Source: Prompt caching, 2026-10."""
    found, automatic = _markers(asked), _automatic(asked)
    count = len(found) + (automatic is not None)
    if count > _MOST_MARKERS:
        doubtful = count == _MOST_MARKERS + 1 and automatic is not None and automatic[1] is not None
        message = f"A maximum of {_MOST_MARKERS} blocks with cache_control may be provided. Found {count}."
        yield (warning if doubtful else error)(found[-1].path, message, turn=found[-1].turn)


def markers_ordered(asked: Asked) -> Iterator[Finding]:
    """Markers for an hour come before those for five minutes. Source: Prompt caching, 2026-10."""
    found, automatic = _markers(asked), _automatic(asked)
    if automatic is not None and automatic[1] is None:
        found.append(Marked("cache_control", None, automatic[0]))
    short = False
    for mark in found:
        if mark.word == "1h" and short:
            message = "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
            yield error(mark.path, message, turn=mark.turn)
        short = short or mark.word == "5m"


def automatic_agrees(asked: Asked) -> Iterator[Finding]:
    """The automatic marker agrees with one that is there already. Source: Prompt caching, 2026-10."""
    automatic = _automatic(asked)
    if automatic is not None and automatic[1] not in (None, automatic[0]):
        yield error("cache_control", f"the last block already has a cache_control with ttl='{automatic[1]}'")


# --- versions, betas, models -------------------------------------------------------------------------------------


def assistant_documents(asked: Asked) -> Iterator[Finding]:
    """Documents leave assistant messages with 2026-10-21. Source: Migrating to API version 2026-10-21."""
    if asked.new_version:
        message = "`document` blocks are not permitted in `assistant` messages"
        yield from _each(asked.outline.marked("assistant_document"), error, message)


def user_citations(asked: Asked) -> Iterator[Finding]:
    """Users cite nothing from 2026-10-21 on. Source: Migrating to API version 2026-10-21."""
    if asked.new_version:
        message = "citations are not permitted in `user` messages"
        yield from _each(asked.outline.marked("user_citations"), error, message)


def system_role(asked: Asked) -> Iterator[Finding]:
    """Some models take system messages. Source: Mid-conversation system messages, 2026-10."""
    if asked.model is not None and not asked.model.system_role:
        make = warning if "system_role" in asked.model.uncertain else error
        for mark in asked.outline.marked("system"):
            message = "role 'system' is not supported on this model"
            yield make(mark.path, message, turn=mark.turn, fix="move_system")


def system_effort(asked: Asked) -> Iterator[Finding]:
    """Some models change their effort midway. Source: Messages API documentation, Effort, 2026-10."""
    if asked.model is not None and not asked.model.system_effort and "output_config" in asked.outline.kinds:
        for mark in asked.outline.marked("output_config"):
            yield warning(mark.path, "this model does not change its effort midway", turn=mark.turn)


def clear_at_beta(asked: Asked) -> Iterator[Finding]:
    """A message that is cleared needs a beta. Source: Mid-conversation system messages, 2026-10."""
    if "mid-conversation-system-clear-at-2026-08-21" not in asked.betas:
        yield from _each(asked.outline.marked("clear_at"), error, "Extra inputs are not permitted")


_BLOCK_BETAS: Final[Mapping[str, tuple[str, ...]]] = {
    "output_config": ("mid-conversation-output-config-2026-07-01",),
    "tool_addition": ("mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"),
    "tool_removal": ("mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"),
    "advisor_tool_result": ("advisor-tool-2026-03-01",),
    "compaction": ("compact-2026-01-12", "compact-2026-09-04"),
    **dict.fromkeys(
        ("mcp_tool_use", "mcp_tool_result", "mcp_tool_listing"), ("mcp-client-2025-11-20", "mcp-client-2026-09-15")
    ),
}


def message_betas(asked: Asked) -> Iterator[Finding]:
    """Some blocks need a beta. Source: Content blocks, 2026-11; that each is refused without it is inferred."""
    for kind, betas in _BLOCK_BETAS.items():
        if kind in asked.outline.kinds and not asked.has(betas):
            first = asked.outline.marked(kind)[0]
            yield warning(first.path, f"needs one of the betas {', '.join(betas)}", turn=first.turn)


def citations_together(asked: Asked) -> Iterator[Finding]:
    """All documents of a request are cited or none, and all search results. Source: Citations, 2026-11."""
    for kind in ("document", "search_result"):
        citing, silent = asked.outline.marked(f"citing_{kind}"), asked.outline.marked(f"silent_{kind}")
        if citing and silent:
            first = min(citing[0], silent[0], key=lambda mark: mark.turn if mark.turn is not None else float("inf"))
            yield error("messages", f"citations must be enabled on all {kind} blocks or on none", turn=first.turn)


def citations_or_format(asked: Asked) -> Iterator[Finding]:
    """Citations go without a format. Source: Messages API documentation, Structured outputs, 2026-08."""
    if part_of(asked, "output_config").get("format") is not None:
        for kind in ("document", "search_result"):
            for mark in asked.outline.marked(f"citing_{kind}")[:1]:
                message = "structured outputs cannot be combined with citations"
                yield error("output_config.format", message, turn=mark.turn)


# --- the end of the messages -------------------------------------------------------------------------------------


def is_open_ended(asked: Asked) -> bool:
    """Say whether the request ends with the assistant and goes out so."""
    return asked.outline.last_role == "assistant" and (asked.prefill or asked.sending)


def _is_continued(asked: Asked) -> bool:
    """Say whether it ends with an answer that was paused or handed over, which is gone on with and is no prefill."""
    kind = kind_of(_final(asked.outline))
    paused = kind in SERVER_CALLS or (kind != "tool_result" and is_server_result(kind))
    credited = asked.params.get("fallback_credit_token") is not None or asked.params.get("compaction") is not None
    return paused or credited or kind in ("compaction", "fallback")


def _final(outline: Outline) -> Mapping[str, Any]:
    """Give the last block; an empty one where there is none, or where it is a mere text."""
    last = outline.last.blocks[-1] if outline.last is not None and outline.last.blocks else {}
    return last if isinstance(last, Mapping) else {}


def _where(asked: Asked) -> tuple[str, int | None]:
    last = asked.outline.last
    return f"messages.{asked.outline.count - 1}", last.place.turn if last is not None else None


def prefill_model(asked: Asked) -> Iterator[Finding]:
    """Only some models continue an assistant message. Source: Messages API documentation, Prefill not supported."""
    if not is_open_ended(asked) or (asked.model is not None and asked.model.prefill) or _is_continued(asked):
        return
    name, (path, turn) = asked.params.get("model"), _where(asked)
    takers = ", ".join(sorted(each.id for each in asked.models.where(prefill=True)))
    if asked.model is not None:
        message = f"{name} does not support assistant message prefill. The conversation must end with a user message."
        yield error(path, f"{message} Models that do: {takers}", turn=turn)
    elif not asked.allow_unlisted_model:
        message = f"whether {name} takes a prefill is not known; say allow_unlisted_model=True to try"
        yield error(path, f"{message}, or use one that does: {takers}", turn=turn)


def prefill_ends_in_words(asked: Asked) -> Iterator[Finding]:
    """A final assistant text does not end in white space. Source: Messages API, error text."""
    text, last = _final(asked.outline).get("text"), asked.outline.last
    if is_open_ended(asked) and last is not None and isinstance(text, str) and text != text.rstrip():
        path = last.place.at(len(last.blocks) - 1, "text")
        message = "final assistant content cannot end with trailing whitespace: leave the space to the model"
        yield error(path, message, turn=last.place.turn, fix="trim")


def prefill_alone(asked: Asked) -> Iterator[Finding]:
    """A prefill goes with neither thinking nor a format. Source: Messages API documentation, Structured outputs."""
    if not is_open_ended(asked) or _is_continued(asked):
        return
    path, turn = _where(asked)
    if part_of(asked, "thinking").get("type") not in (None, "disabled"):
        yield error(path, "a prefill cannot be used with thinking", turn=turn)
    if part_of(asked, "output_config").get("format") is not None:
        yield error(path, "a prefill cannot be used with output_config.format", turn=turn)


def calls_answered(asked: Asked) -> Iterator[Finding]:
    """No call of a tool is open when a request goes out. Source: Handle tool calls, 2026-10."""
    if asked.sending or asked.looking:
        yield from unanswered(asked.outline.open_calls, "messages.{}")


def server_tools_given(asked: Asked) -> Iterator[Finding]:
    """
    A call of the API's own tool that waits for its result needs the tool.

    Source: Messages API documentation, Server tools, 2026-08.
    """
    if not asked.sending:
        return
    names = [str(tool.get("name")) for _, tool in given(asked)]
    for call in asked.outline.waiting.values():
        mcp = call.id.startswith("mcptoolu_") or not call.id.startswith("srvtoolu_")
        if not mcp and not any(call.name.endswith(name) for name in names):
            message = f"`{call.name}` tool use with id `{call.id}` was found without a corresponding result block"
            yield error(call.path, f"{message}, but no `{call.name}` tool was provided", turn=call.turn)


def container_named(asked: Asked) -> Iterator[Finding]:
    """While code waits for a call's result, its container is named. Source: Programmatic tool calling, 2026-08."""
    container = asked.params.get("container")
    named = container.get("id") if isinstance(container, Mapping) else container
    if asked.sending and asked.outline.called and not named and not asked.counting:
        message = "container_id is required when there are pending tool uses generated by code execution with tools"
        yield error("container", message)


OF_THE_WHOLE: Final[Sequence[Callable[[Asked], Iterator[Finding]]]] = (
    some_message,
    body_size,
    prompt_length,
    image_count,
    many_images,
    pdf_pages,
    markers_counted,
    markers_ordered,
    automatic_agrees,
    assistant_documents,
    user_citations,
    system_role,
    system_effort,
    clear_at_beta,
    message_betas,
    citations_together,
    citations_or_format,
    prefill_model,
    prefill_ends_in_words,
    prefill_alone,
    calls_answered,
    server_tools_given,
    container_named,
)
