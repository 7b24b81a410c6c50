"""
What the Messages API refuses, told in its own words.

`check` looks at a body as the API does: keys and kinds first (`conversation_store.testing.shapes`), then one
function a rule, in the order of ``RULES``; the first thing wrong is the answer. The rules are written from the
documentation alone and share nothing with the rest of the package, so that each can be tested against the other.
Where the documentation gives no words for an error, the path and the reason are ours.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

from conversation_store.testing import images
from conversation_store.testing.blocks import SERVER_CALLS, blocks_of, is_server_result
from conversation_store.testing.caching import automatic, lifetimes, prompt
from conversation_store.testing.models import Model
from conversation_store.testing.shapes import Call, RejectionError, check_shape, reject

VERSIONS: Final = ("2023-06-01", "2026-10-21")
"""The API versions in service."""
_IMAGE_BYTES: Final = 10 * 1024 * 1024
_LONGEST_SIDE: Final = 8000
_LONGEST_SIDE_OF_MANY: Final = 2000
_MANY_IMAGES: Final = 20
_MARKERS: Final = 4
_MESSAGES: Final = 100_000
_WIDE_CONTEXT: Final = 1_000_000
_IN_USER: Final = frozenset(
    ("text", "image", "document", "search_result", "tool_result", "container_upload", "connector_text")
)
_NOT_IN_ASSISTANT: Final = frozenset(("image", "search_result", "tool_result"))


class Placed(NamedTuple):
    """A content block and where it stands: its message, its place in it (None for a string), its path."""

    message: int
    place: int | None
    role: str
    block: Mapping[str, Any]
    path: str

    @property
    def type(self) -> str:
        """The block's type."""
        return str(self.block.get("type"))


@dataclass(frozen=True)
class Question:
    """A body of the right shape, its model, its call, and its content blocks in order."""

    body: Mapping[str, Any]
    model: Model
    call: Call
    placed: Sequence[Placed]

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages."""
        return self.body["messages"]  # type: ignore[no-any-return]

    @property
    def thinks(self) -> bool:
        """Whether the model will think."""
        thinking = self.body.get("thinking")
        return thinking["type"] in {"adaptive", "enabled"} if thinking else self.model.thinks

    @property
    def turns(self) -> Iterator[tuple[str, list[Placed]]]:
        """The blocks by turn: consecutive messages of one role are one turn."""
        role, blocks = "", list[Placed]()
        last = -1
        for each in self.placed:
            if each.role != role or self._parted(last, each.message):
                if blocks:
                    yield role, blocks
                role, blocks = each.role, []
            blocks.append(each)
            last = each.message
        if blocks:
            yield role, blocks

    def _parted(self, before: int, after: int) -> bool:
        """Tell whether a message of another role stands between two, one without any block."""
        role = self.messages[after]["role"]
        return any(self.messages[at]["role"] != role for at in range(before + 1, after))


def check(body: Any, call: Call, models: Mapping[str, Model]) -> None:
    """
    Check a body as the API would.

    Args:
        body: The decoded JSON of the request.
        call: Version, betas and endpoint it came with.
        models: The models in service, by id and alias.

    Raises:
        RejectionError: The first thing the API would refuse.
    """
    check_shape(body, call)
    model = models.get(body["model"])
    if model is None:
        raise RejectionError(f"model: {body['model']}", status=404, kind="not_found_error")
    question = Question(body, model, call, tuple(_place(body["messages"])))
    for rule in RULES:
        rule(question)


def _place(messages: Sequence[Mapping[str, Any]]) -> Iterator[Placed]:
    for number, message in enumerate(messages):
        content = message.get("content")
        plain = isinstance(content, str)
        for index, block in enumerate(blocks_of(content)):
            path = f"messages.{number}.content" + ("" if plain else f".{index}")
            yield Placed(number, None if plain else index, message["role"], block, path)


def _nested(block: Mapping[str, Any], path: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield a block and the blocks a caller may put inside it, each with its path."""
    yield block, path
    inner = block.get("content")
    if block.get("type") in {"tool_result", "search_result"} and isinstance(inner, list):
        for index, each in enumerate(inner):
            yield from _nested(each, f"{path}.{block['type']}.content.{index}")
    source = block.get("source")
    if block.get("type") == "document" and isinstance(source, dict) and isinstance(source.get("content"), list):
        for index, each in enumerate(source["content"]):
            yield from _nested(each, f"{path}.document.source.content.content.{index}")


def _everything(question: Question) -> Iterator[tuple[Mapping[str, Any], str]]:
    for each in question.placed:
        yield from _nested(each.block, each.path)


# -- parameters ----------------------------------------------------------------------------------------------


def _max_tokens(question: Question) -> None:
    """
    The answer's length is within the model's bound; a warm-up (0) asks for nothing else.

    Source: Messages API documentation, Messages reference; prompt caching.
    """
    body, model = question.body, question.model
    asked = body.get("max_tokens")
    if asked is None:
        return
    if asked > model.max_tokens:
        most = f"{model.max_tokens}, which is the maximum allowed number of output tokens for {body['model']}"
        raise reject("max_tokens", f"{asked} > {most}")
    refused = {
        "stream": body.get("stream"),
        "thinking.type.enabled": (body.get("thinking") or {}).get("type") == "enabled",
        "output_config.format": (body.get("output_config") or {}).get("format"),
        "tool_choice": (body.get("tool_choice") or {}).get("type") in {"any", "tool"},
    }
    if asked == 0 and any(refused.values()):
        raise reject("max_tokens", f"0 cannot be combined with {next(filter(refused.get, refused))}")


def _thinking(question: Question) -> None:
    """
    The model accepts this kind of thinking, and the budget leaves room for an answer.

    Source: Messages API documentation, extended and adaptive thinking.
    """
    thinking = question.body.get("thinking")
    if thinking is None:
        return
    kind = thinking["type"]
    if kind not in question.model.thinking:
        if kind == "adaptive":
            raise RejectionError("adaptive thinking is not supported on this model")
        advice = ""
        if kind in {"enabled", "disabled"} and "adaptive" in question.model.thinking:
            advice = ' Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
        raise RejectionError(f'"thinking.type.{kind}" is not supported for this model.{advice}')
    if kind == "enabled" and not question.call.counting:
        interleaved = "interleaved-thinking-2025-05-14" in question.call.betas
        if thinking["budget_tokens"] >= question.body["max_tokens"] and not interleaved:
            raise RejectionError("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _effort(question: Question) -> None:
    """
    The model accepts this effort, also without thinking.

    Source: Messages API documentation, effort.
    """
    effort = (question.body.get("output_config") or {}).get("effort")
    if effort is None:
        return
    if effort not in question.model.effort:
        raise RejectionError(f"output_config.effort '{effort}' is not supported for this model.")
    quiet = (question.body.get("thinking") or {}).get("type") in {"disabled", "between_tools"}
    if quiet and question.model.quiet_effort and effort in {"xhigh", "max"}:
        raise RejectionError(
            f"output_config.effort '{effort}' is not supported when thinking is disabled on this model."
        )


def _sampling(question: Question) -> None:
    """
    Sampling parameters are for older models, without thinking. Not reached under 2026-10-21.

    Source: Messages API documentation, Messages reference.
    """
    body = question.body
    given = [key for key in ("temperature", "top_p", "top_k") if key in body]
    for key, most in (("temperature", 1), ("top_p", 1)):
        if key in body and not 0 <= body[key] <= most:
            bound = "greater than or equal to 0" if body[key] < 0 else f"less than or equal to {most}"
            raise reject(key, f"Input should be {bound}")
    if question.model.sampling:
        if not question.thinks:
            return
        if "top_p" in body and body["top_p"] < 0.95:  # noqa: PLR2004 - the documented bound
            raise RejectionError("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
        given = [key for key in given if key != "top_p"]
    given = [key for key in given if key == "top_k" or body[key] != 1]
    if given:
        reason = "when thinking is enabled" if question.model.sampling else "for this model"
        raise RejectionError(f"`{given[0]}` is not supported {reason}.")


def _placement_of_work(question: Question) -> None:
    """
    Where and how fast the model runs may be chosen for some models only.

    Source: Messages API documentation, data residency; fast mode.
    """
    body = question.body
    if body.get("inference_geo") is not None and not question.model.inference_geo:
        raise reject("inference_geo", "inference_geo is not supported for this model.")
    free = question.model.id == "claude-opus-5-5" or "fast-mode-2026-02-01" in question.call.betas
    if "speed" in body and not free:
        raise reject("speed", "Extra inputs are not permitted")


def _compaction(question: Question) -> None:
    """
    A summary on demand goes with nothing that shapes an answer.

    Source: Messages API documentation, compaction.
    """
    body = question.body
    if not body.get("compaction"):
        return
    refused = {
        "context_management": body.get("context_management"),
        "stop_sequences": body.get("stop_sequences"),
        "output_config.format": (body.get("output_config") or {}).get("format"),
        "tool_choice": (body.get("tool_choice") or {}).get("type") in {"any", "tool"},
    }
    for name in filter(refused.get, refused):
        raise reject("compaction", f"cannot be combined with {name}")


def _format(question: Question) -> None:
    """
    An enforced schema closes its objects.

    Source: Messages API documentation, structured outputs.
    """
    wanted = (question.body.get("output_config") or {}).get("format")
    if wanted:
        _closed(wanted["schema"], "output_config.format.json_schema.schema")


def _closed(schema: Any, path: str) -> None:
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise reject(path, "For 'object' type, 'additionalProperties' must be explicitly set to false")
    for key in ("properties", "$defs"):
        for name, each in (schema.get(key) or {}).items():
            _closed(each, f"{path}.{key}.{name}")
    for key in ("anyOf", "allOf"):
        for index, each in enumerate(schema.get(key) or ()):
            _closed(each, f"{path}.{key}.{index}")
    _closed(schema.get("items"), f"{path}.items")


def _stop_sequences(question: Question) -> None:
    """
    Each stop sequence has something to stop at.

    Source: Messages API documentation, Messages reference.
    """
    if not all(each.strip() for each in question.body.get("stop_sequences") or ()):
        raise reject("stop_sequences", "each stop sequence must contain non-whitespace")


def _tools(question: Question) -> None:
    """
    Tool names are unique, and the model knows the tool.

    Source: Messages API documentation, tool reference.
    """
    tools = question.body.get("tools") or ()
    names = [tool["name"] for tool in tools if "name" in tool]
    if len(names) != len(set(names)):
        raise reject("tools", "Tool names must be unique.")
    for index, tool in enumerate(tools):
        single = str(tool.get("type")).startswith("computer_2")
        if single and not question.model.computer_tools:
            raise reject(f"tools.{index}", f"'{tool['type']}' is not supported for this model.")
        if tool.get("allowed_domains") and tool.get("blocked_domains"):
            raise reject(f"tools.{index}", "only one of allowed_domains and blocked_domains may be given")


def _tool_choice(question: Question) -> None:
    """
    A tool is forced on models that allow it, and only one that is there.

    Source: Messages API documentation, tool use.
    """
    body = question.body
    choice = body.get("tool_choice")
    if choice is None:
        return
    tools = body.get("tools")
    if not tools:
        raise reject("tool_choice", "may only be specified while providing tools.")
    if choice["type"] not in {"any", "tool"}:
        return
    if not question.model.forced_tools:
        raise reject("tool_choice", 'type "tool" and "any" are not supported for this model.')
    if (body.get("thinking") or {}).get("type") == "enabled":
        raise RejectionError("Thinking may not be enabled when tool_choice forces tool use.")
    if choice["type"] == "tool" and choice["name"] not in {tool.get("name") for tool in tools}:
        raise reject("tool_choice", f"Tool '{choice['name']}' not found in provided tools")


# -- messages ------------------------------------------------------------------------------------------------


def _some_messages(question: Question) -> None:
    """
    There are messages, and the first is the user's.

    Source: Messages API documentation, Messages reference.
    """
    messages = question.messages
    if not messages:
        raise reject("messages", "at least one message is required")
    if len(messages) > _MESSAGES:
        raise reject("messages", f"List should have at most {_MESSAGES} items")
    first = messages[0]
    if first["role"] == "user" or _effort_only(first):
        return
    blocks = blocks_of(first.get("content"))
    if first["role"] == "assistant" and blocks and blocks[0].get("type") == "compaction":
        return
    raise reject("messages", 'first message must use the "user" role')


def _effort_only(message: Mapping[str, Any]) -> bool:
    return message["role"] == "system" and not message.get("content") and "output_config" in message


def _system_messages(question: Question) -> None:
    """
    System messages stand after a user turn and before an assistant's, on models that take them.

    Source: Messages API documentation, mid-conversation system messages.
    """
    messages = [(number, each) for number, each in enumerate(question.messages) if not _effort_only(each)]
    for place, (number, message) in enumerate(messages):
        if "clear_at" in message and message["role"] != "system":
            raise RejectionError("clear_at is only permitted on role 'system' messages")
        if message["role"] != "system":
            continue
        if not question.model.system_messages:
            raise RejectionError("role 'system' is not supported on this model")
        if not message.get("content"):
            raise reject(f"messages.{number}", "system messages must have content or output_config")
        before = messages[place - 1][1] if place else None
        after = messages[place + 1][1] if place + 1 < len(messages) else None
        if before is None or not _may_precede_system(before):
            raise reject(f"messages.{number}", "role 'system' must directly follow a user turn")
        if after is not None and after["role"] == "user":
            raise reject(f"messages.{number}", "role 'system' must be last or be followed by an assistant turn")


def _may_precede_system(message: Mapping[str, Any]) -> bool:
    if message["role"] == "assistant":
        blocks = blocks_of(message["content"])
        return bool(blocks) and is_server_result(str(blocks[-1].get("type")))
    return True


def _nonempty_messages(question: Question) -> None:
    """
    Only a final assistant message may be empty.

    Source: Messages API documentation, Messages reference.
    """
    last = len(question.messages) - 1
    for number, message in enumerate(question.messages):
        optional = message["role"] == "system" or (number == last and message["role"] == "assistant")
        if not message.get("content") and not optional:
            reason = "all messages must have non-empty content except for the optional final assistant message"
            raise reject(f"messages.{number}", reason)


def _nonempty_text(question: Question) -> None:
    """
    Text says something.

    Source: Messages API documentation, Messages reference.
    """
    system = question.body.get("system")
    if isinstance(system, str):
        system = [{"type": "text", "text": system}]
    for index, block in enumerate(system or ()):
        _text(block, "system", f"system.{index}")
    for block, path in _everything(question):
        if block.get("type") == "text":
            _text(block, "messages", path)


def _text(block: Mapping[str, Any], place: str, path: str) -> None:
    if block["text"].strip():
        return
    if not block["text"] and block.get("cache_control"):
        raise reject(f"{path}.text", "cache_control cannot be set for empty text blocks")
    whitespace = "text content blocks must contain non-whitespace text"
    raise reject(place, whitespace if block["text"] else "text content blocks must be non-empty")


def _placement(question: Question) -> None:
    """
    Blocks stand in messages of the right role.

    Source: Messages API documentation, content blocks; API versions.
    """
    new = question.call.version == VERSIONS[1]
    for each in question.placed:
        if each.role == "assistant":
            refused = each.type in _NOT_IN_ASSISTANT or (each.type == "document" and new)
        else:
            refused = each.role == "user" and each.type not in _IN_USER and not _leads(each)
        if refused:
            raise reject(each.path, f"`{each.type}` blocks are not permitted in `{each.role}` messages")
        if each.role == "user" and new:
            for block, path in _nested(each.block, each.path):
                if block.get("type") == "text" and block.get("citations"):
                    raise reject(f"{path}.text.citations", "citations are not permitted in `user` messages")


def _leads(each: Placed) -> bool:
    """Tell whether a block is the compaction that may open the first message."""
    return each.type == "compaction" and each.message == 0 and each.place == 0


def _citations(question: Question) -> None:
    """
    Citations are for all documents or none, and not for structured output.

    Source: Messages API documentation, citations; structured outputs.
    """
    for kind in ("document", "search_result"):
        found = [block for block, _ in _everything(question) if block.get("type") == kind]
        citing = {bool((block.get("citations") or {}).get("enabled")) for block in found}
        if len(citing) > 1:
            raise reject("messages", f"citations must be enabled on all {kind} blocks or on none")
        if True in citing and (question.body.get("output_config") or {}).get("format"):
            raise reject("output_config.format", "structured outputs cannot be combined with citations")


def _results(question: Question) -> None:
    """
    Search results share a tool result with nothing else.

    Source: Messages API documentation, search results.
    """
    for each in question.placed:
        content = each.block.get("content")
        if each.type == "tool_result" and isinstance(content, list):
            kinds = {block.get("type") for block in content}
            if "search_result" in kinds and len(kinds) > 1:
                reason = "`search_result` blocks cannot be mixed with other types"
                raise reject(f"{each.path}.tool_result.content", reason)


def _markers(question: Question) -> None:
    """
    There are four cache markers at most, the long-lived first; the automatic one agrees with what it falls on.

    Source: Messages API documentation, prompt caching.
    """
    body = question.body
    parts = list(prompt(body))
    found = [list(lifetimes(each.block)) for each in parts]
    markers = [lifetime for each in found for lifetime in each]
    if body.get("cache_control"):
        wanted, place = body["cache_control"].get("ttl", "5m"), automatic(body)
        there = found[place] if place is not None else [wanted]
        if len(markers) >= _MARKERS or not there:
            at = sum(map(len, found[: (place or 0) + 1]))
            markers.insert(at, wanted)
        elif there[-1] != wanted:
            raise reject("cache_control", f"the last block already has a cache_control with ttl='{there[-1]}'")
    if len(markers) > _MARKERS:
        raise RejectionError(
            f"A maximum of {_MARKERS} blocks with cache_control may be provided. Found {len(markers)}."
        )
    if "5m" in markers and "1h" in markers[markers.index("5m") :]:
        raise RejectionError("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")


# -- media ---------------------------------------------------------------------------------------------------


def _media(question: Question) -> None:
    """
    Images are few, small and what they say they are.

    Source: Messages API documentation, vision.
    """
    sources = [
        (block["type"], block["source"], f"{path}.{block['type']}.source")
        for block, path in _everything(question)
        if block.get("type") in {"image", "document"}
    ]
    count = sum(kind == "image" for kind, _, _ in sources)
    most = 600 if question.model.context >= _WIDE_CONTEXT else 100
    if count > most:
        raise reject("messages", f"too many images: {count} > {most}")
    longest = _LONGEST_SIDE_OF_MANY if count > _MANY_IMAGES else _LONGEST_SIDE
    for kind, source, path in sources:
        if source.get("type") == "base64":
            _base64(kind, source, f"{path}.base64", longest)


def _base64(kind: str, source: Mapping[str, Any], path: str, longest: int) -> None:
    if kind == "image" and len(source["data"]) > _IMAGE_BYTES:
        raise reject(path, f"image exceeds 10 MB maximum: {len(source['data'])} bytes > {_IMAGE_BYTES} bytes")
    try:
        data = base64.b64decode(source["data"].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise reject(f"{path}.data", "Invalid base64 data") from None
    if not data:
        raise reject(path, f"{kind} cannot be empty")
    if kind == "image":
        _image(data, source["media_type"], path, longest)


def _image(data: bytes, declared: str, path: str, longest: int) -> None:
    found = images.media_type(data)
    if found is not None and found != declared:
        raise reject(
            path,
            f"The image was specified using the {declared} media type, but the image appears to be a {found} image",
        )
    size = images.size(data)
    if size is not None and max(size) > longest:
        what = "many-image requests" if longest == _LONGEST_SIDE_OF_MANY else "requests"
        reason = f"At least one of the image dimensions exceed max allowed size for {what}: {longest} pixels"
        raise RejectionError(f"{path}.data: {reason}", code="image_dimensions_too_large")


# -- tools in the history ------------------------------------------------------------------------------------


def _client_tools(question: Question) -> None:
    """
    Every call is answered at the beginning of the next user turn, once; nothing else is answered.

    Source: Messages API documentation, handle tool calls.
    """
    seen = set[str]()
    open_calls: dict[str, Placed] = {}
    for role, turn in question.turns:
        answered = _answered(turn, open_calls) if role == "user" else set[str]()
        _unanswered({key: each for key, each in open_calls.items() if key not in answered})
        open_calls = {}
        for each in turn:
            if each.type in {"tool_use", "mcp_tool_use", "server_tool_use"}:
                if each.block["id"] in seen:
                    raise reject(each.path, "`tool_use` ids must be unique")
                seen.add(each.block["id"])
            if each.type == "tool_use":
                open_calls[each.block["id"]] = each
    _unanswered(open_calls)


def _unanswered(calls: Mapping[str, Placed]) -> None:
    if calls:
        first = min(each.message for each in calls.values())
        ids = ", ".join(key for key, each in calls.items() if each.message == first)
        raise reject(
            f"messages.{first}",
            f"`tool_use` ids were found without `tool_result` blocks immediately after: {ids}. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        )


def _answered(turn: Sequence[Placed], open_calls: Mapping[str, Placed]) -> set[str]:
    """Return the ids answered at the beginning of a user turn."""
    answered = set[str]()
    leading = True
    for each in turn:
        if each.type != "tool_result":
            leading = False
            continue
        key = each.block["tool_use_id"]
        if key not in open_calls:
            raise reject(
                each.path,
                f"unexpected `tool_use_id` found in `tool_result` blocks: {key}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
            )
        if key in answered:
            raise reject(
                each.path,
                f"each tool_use must have a single result. Found multiple `tool_result` blocks with id: {key}",
            )
        if leading:
            answered.add(key)
    return answered


def _server_tools(question: Question) -> None:
    """
    A server tool's result comes after its call in the same open turn; only the last turn may wait for one.

    Source: Messages API documentation, server tools.
    """
    open_calls: dict[str, Placed] = {}
    for role, turn in question.turns:
        if role == "user" and any(each.type != "tool_result" for each in turn):
            for each in open_calls.values():
                _without_result(each, "")
        for each in turn:
            if each.type in SERVER_CALLS:
                open_calls[each.block["id"]] = each
            elif is_server_result(each.type):
                key = each.block["tool_use_id"]
                if open_calls.pop(key, None) is None:
                    raise reject(
                        each.path,
                        f"unexpected `tool_use_id` found in `{each.type}` blocks: {key}. Each `{each.type}` "
                        "block must have a corresponding `server_tool_use` block before it.",
                    )
    tools = {tool.get("name") for tool in question.body.get("tools") or ()}
    for each in open_calls.values():
        name = each.block["name"]
        if each.type == "server_tool_use" and not any(name.endswith(str(tool)) for tool in tools):
            _without_result(each, f", but no `{name}` tool was provided")


def _without_result(each: Placed, more: str) -> NoReturn:
    name = each.block["name"]
    raise RejectionError(
        f"`{name}` tool use with id `{each.block['id']}` was found without a corresponding "
        f"`{name}_tool_result` block{more}"
    )


def _programmatic(question: Question) -> None:
    """
    A call made by running code is answered in text, and while it is pending the container is named.

    Source: Messages API documentation, programmatic tool calling.
    """
    running = set[str]()
    called: dict[str, str] = {}
    for role, turn in question.turns:
        for each in turn:
            if role == "user" and each.type == "tool_result" and called.get(each.block["tool_use_id"]) in running:
                content = each.block.get("content")
                if isinstance(content, list) and any(block.get("type") != "text" for block in content):
                    reason = "only text is permitted in the result of a programmatic tool call"
                    raise reject(f"{each.path}.tool_result.content", reason)
            elif each.type in SERVER_CALLS:
                running.add(each.block["id"])
            elif is_server_result(each.type):
                running.discard(each.block["tool_use_id"])
            elif each.type == "tool_use":
                called[each.block["id"]] = (each.block.get("caller") or {}).get("tool_id", "")
    container = question.body.get("container")
    named = container.get("id") if isinstance(container, dict) else container
    if not named and running & set(called.values()) and not question.call.counting:
        raise RejectionError(
            "container_id is required when there are pending tool uses generated by code execution with tools."
        )


def _toolsets(question: Question) -> None:
    """
    The result of a toolset's member names the toolset, and holds text and images, or one state of the browser.

    Source: Messages API documentation, computer and browser toolsets.
    """
    calls = {each.block["id"]: each.block for each in question.placed if each.type == "tool_use"}
    for each in question.placed:
        if each.type != "tool_result":
            continue
        wanted = calls.get(each.block["tool_use_id"], {}).get("toolset_name")
        given = each.block.get("toolset_name")
        if given != wanted:
            reason = (
                f"Input should be '{wanted}', as in the `tool_use` block" if wanted else "the call names no toolset"
            )
            raise reject(f"{each.path}.tool_result.toolset_name", reason)
        content = each.block.get("content")
        kinds = [str(block.get("type")) for block in content] if isinstance(content, list) else []
        states = kinds.count("browser_state")
        if states and (wanted != "browser" or states > 1 or each.block.get("is_error")):
            reason = "one `browser_state` is permitted, in a `browser` result that is no error"
            raise reject(f"{each.path}.tool_result.content", reason)
        if wanted and set(kinds) - {"text", "image", "browser_state"}:
            reason = "only `text` and `image` blocks are permitted in the result of a toolset"
            raise reject(f"{each.path}.tool_result.content", reason)


# -- the final assistant message -----------------------------------------------------------------------------


def _prefill(question: Question) -> None:
    """
    A conversation ends with the user, unless the model takes a prefill or was paused.

    Source: Messages API documentation, prefill; handling stop reasons.
    """
    last = question.messages[-1]
    if last["role"] != "assistant":
        return
    blocks = blocks_of(last["content"])
    kind = str(blocks[-1].get("type")) if blocks else ""
    continued = question.call.continued(question.messages)
    if continued is False:
        reason = "a paused turn must be continued as it was answered, after the same messages"
        raise reject(f"messages.{len(question.messages) - 1}", reason)
    if (
        continued
        or question.body.get("compaction")
        or kind in {"server_tool_use", "mcp_tool_use", "compaction", "fallback"}
        or is_server_result(kind)
    ):
        return
    credit = "fallback_credit_token" in question.body
    if not question.model.prefill and not credit:
        raise RejectionError(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    if kind == "text" and blocks[-1]["text"] != blocks[-1]["text"].rstrip():
        raise reject("messages", "final assistant content cannot end with trailing whitespace")
    if question.thinks and blocks and blocks[0].get("type") not in {"thinking", "redacted_thinking"}:
        raise reject(
            f"messages.{len(question.messages) - 1}.content.0.type",
            f"Expected `thinking` or `redacted_thinking`, but found `{blocks[0].get('type')}`. When `thinking` "
            "is enabled, a final `assistant` message must start with a thinking block.",
        )
    if (question.body.get("output_config") or {}).get("format"):
        raise reject("output_config.format", "structured outputs cannot be combined with prefill")


RULES: Final = (
    _max_tokens,
    _thinking,
    _effort,
    _sampling,
    _placement_of_work,
    _compaction,
    _format,
    _stop_sequences,
    _tools,
    _tool_choice,
    _some_messages,
    _system_messages,
    _nonempty_messages,
    _nonempty_text,
    _placement,
    _citations,
    _results,
    _markers,
    _media,
    _client_tools,
    _server_tools,
    _programmatic,
    _toolsets,
    _prefill,
)
"""Every rule beyond the shape, in the order they are looked at."""
