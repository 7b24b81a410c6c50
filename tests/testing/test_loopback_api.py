"""The loopback API refuses what the Messages API refuses, fails as it is told to, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import doctest
import gzip
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from typing import Any

import pytest

import conversation_store.testing
from conversation_store.testing import MODELS, Answer, Fault, MessagesAPI, Model, Request, echo, images
from tests.testing.asking import (
    FIRST,
    HI,
    LATEST,
    MCP,
    NEW,
    OLD,
    PNG,
    SEARCH,
    TOOL,
    ask,
    call,
    connect,
    document,
    events,
    found,
    headers,
    image,
    question,
    received,
    result,
    search,
    spoken,
    text,
    without,
)

EPHEMERAL = {"type": "ephemeral"}
THINKING = {"type": "enabled", "budget_tokens": 1024}
FORMAT = {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}}
PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."
EMPTY = "all messages must have non-empty content except for the optional final assistant message"
LATE = "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1."
CITATION = {
    "type": "char_location",
    "cited_text": "a",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
}

# What is asked with, a body the API takes, a body it refuses, and the beginning of its words.
RULES: list[tuple[str, Any, Any, str]] = [
    ("model missing", question(), without(question(), "model"), "model: Field required"),
    ("max_tokens missing", question(), without(question(), "max_tokens"), "max_tokens: Field required"),
    ("messages missing", question(), without(question(), "messages"), "messages: Field required"),
    ("unknown key", question(metadata={"user_id": "a"}), question(top_q=1), "top_q: Extra inputs are not permitted"),
    ("beta key", question(), question(mcp_servers=[]), "mcp_servers: Extra inputs are not permitted"),
    ("sampling", question(), question(temperature=1), "temperature: Extra inputs are not permitted"),
    ("metadata key", question(), question(metadata={"name": "a"}), "metadata.name: Extra inputs are not permitted"),
    ("kind of value", question(stream=False), question(stream="no"), "stream: Input should be a valid boolean"),
    ("whole number", question(), question(max_tokens=1.5), "max_tokens: Input should be a valid integer"),
    ("below zero", question(max_tokens=0), question(max_tokens=-1), "max_tokens: Input should be greater than or"),
    (
        "too many tokens",
        question(max_tokens=128_000),
        question(max_tokens=128_001),
        f"max_tokens: 128001 > 128000, which is the maximum allowed number of output tokens for {NEW}",
    ),
    ("warming and streaming", question(max_tokens=0), question(max_tokens=0, stream=True), "max_tokens: 0 cannot"),
    (
        "stop sequence",
        question(stop_sequences=["\nHuman:"]),
        question(stop_sequences=["\n"]),
        "stop_sequences: each stop sequence must contain non-whitespace",
    ),
    ("no messages", question(), question(messages=[]), "messages: at least one message is required"),
    ("role", question(), question(spoken("human")), "messages.0.role: Input should be 'user', 'assistant' or"),
    (
        "first role",
        question("a", "b", "c"),
        question(spoken("assistant"), HI),
        'messages: first message must use the "user" role',
    ),
    (
        "message key",
        question("a", spoken("assistant"), HI),
        question("a", spoken("assistant", id="msg_1"), HI),
        "messages.1.id: Extra inputs are not permitted",
    ),
    ("one role twice", question(HI, HI), question(HI, spoken("user", "")), f"messages.1: {EMPTY}"),
    ("empty content", question("a", [text()], "b"), question("a", [], "b"), f"messages.1: {EMPTY}"),
    ("empty text", question([text()]), question([text("")]), "messages: text content blocks must be non-empty"),
    (
        "blank text",
        question([text(" a ")]),
        question([text(" \n")]),
        "messages: text content blocks must contain non-whitespace text",
    ),
    ("blank string", question("a"), question(" "), "messages: text content blocks must contain non-whitespace text"),
    ("empty system", question(system="Be brief."), question(system=""), "system: text content blocks must be"),
    (
        "marker on empty text",
        question([text(cache_control=EPHEMERAL)]),
        question([text("", cache_control=EPHEMERAL)]),
        "messages.0.content.0.text: cache_control cannot be set for empty text blocks",
    ),
    (
        "block kind",
        question([text()]),
        question([{"type": "txt", "text": "a"}]),
        "messages.0.content.0: Input tag 'txt' found using 'type' does not match any of the expected tags: 'text'",
    ),
    ("block without kind", question([text()]), question([{"text": "a"}]), "messages.0.content.0.type: Field required"),
    (
        "block key",
        question([text(citations=None)]),
        question([text(parsed_output=None)]),
        "messages.0.content.0.text.parsed_output: Extra inputs are not permitted",
    ),
    (
        "text of no string",
        question([text()]),
        question([{"type": "text", "text": None}]),
        "messages.0.content.0.text.text: Input should be a valid string",
    ),
    (
        "beta block",
        question([text()]),
        question("a", [{"type": "mcp_tool_listing", "mcp_server_name": "a", "tools": []}], "b"),
        "messages.1.content.0: Input tag 'mcp_tool_listing'",
    ),
    (
        "call in a user message",
        question("a", [call()], [result()]),
        question([call()]),
        "messages.0.content.0: `tool_use` blocks are not permitted in `user` messages",
    ),
    (
        "document of the assistant",
        question([document(), text()]),
        question("a", [document()], "b"),
        "messages.1.content.0: `document` blocks are not permitted in `assistant` messages",
    ),
    (
        "citations of the user",
        question("a", [text(citations=[CITATION])], "b"),
        question([text(citations=[CITATION])]),
        "messages.0.content.0.text.citations: citations are not permitted",
    ),
    (
        "citations on some documents",
        question([document(citing=True), document(citing=True), text()]),
        question([document(citing=True), document(), text()]),
        "messages: citations must be enabled on all document blocks or on none",
    ),
    (
        "citations and structured output",
        question([document(), text()], output_config=FORMAT),
        question([document(citing=True), text()], output_config=FORMAT),
        "output_config.format: structured outputs cannot be combined with citations",
    ),
    (
        "image kind",
        question([image(), text()]),
        question([image(media_type="image/bmp")]),
        (
            "messages.0.content.0.image.source.base64.media_type: "
            "Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
        ),
    ),
    (
        "image data",
        question([image()]),
        question([image("not base64!")]),
        "messages.0.content.0.image.source.base64.data: Invalid base64 data",
    ),
    (
        "image of another kind",
        question([image()]),
        question([image(media_type="image/jpeg")]),
        (
            "messages.0.content.0.image.source.base64: The image was specified using the image/jpeg media type, but "
            "the image appears to be a image/png image"
        ),
    ),
    (
        "image too wide",
        question([image(PNG[:16] + struct.pack(">II", 8000, 3) + b"rest")]),
        question([image(PNG[:16] + struct.pack(">II", 8001, 3) + b"rest")]),
        "messages.0.content.0.image.source.base64.data: At least one of the image dimensions",
    ),
    (
        "many images",
        question([image(PNG[:16] + struct.pack(">II", 2000, 3) + b"rest")] * 21),
        question([image(PNG[:16] + struct.pack(">II", 2001, 3) + b"rest")] * 21),
        "messages.0.content.0.image.source.base64.data: At least one of the image dimensions exceed max allowed size",
    ),
    (
        "too many images",
        question([{"type": "image", "source": {"type": "file", "file_id": "file_1"}}] * 600),
        question([{"type": "image", "source": {"type": "file", "file_id": "file_1"}}] * 601),
        "messages: too many images: 601 > 600",
    ),
    (
        "image source",
        question([{"type": "image", "source": {"type": "url", "url": "https://example.org/ant.jpg"}}]),
        question([{"type": "image", "source": {"type": "url"}}]),
        "messages.0.content.0.image.source.url.url: Field required",
    ),
    (
        "image in a result",
        question("a", [call()], [result(content=[image()])]),
        question("a", [call()], [result(content=[image(media_type="image/bmp")])]),
        "messages.2.content.0.tool_result.content.0.image.source.base64.media_type: Input should be",
    ),
    (
        "search results mixed",
        question("a", [call()], [result(content=[text()])]),
        question(
            "a",
            [call()],
            [result(content=[text(), {"type": "search_result", "source": "a", "title": "b", "content": [text()]}])],
        ),
        "messages.2.content.0.tool_result.content: `search_result` blocks cannot be mixed",
    ),
    (
        "five markers",
        question([text(cache_control=EPHEMERAL)] * 4),
        question([text(cache_control=EPHEMERAL)] * 4, cache_control=EPHEMERAL),
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    (
        "markers out of order",
        question([text(cache_control={**EPHEMERAL, "ttl": "1h"}), text(cache_control=EPHEMERAL)]),
        question([text(cache_control=EPHEMERAL), text(cache_control={**EPHEMERAL, "ttl": "1h"})]),
        "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block",
    ),
    (
        "marker on thinking",
        question("a", [{"type": "thinking", "thinking": "", "signature": "s"}, text()], "b"),
        question("a", [{"type": "thinking", "thinking": "", "signature": "s", "cache_control": EPHEMERAL}], "b"),
        "messages.1.content.0.thinking.cache_control: Extra inputs are not permitted",
    ),
    ("unanswered call", question("a", [call()], [result()]), question("a", [call()], "b"), f"messages.1: {LATE}"),
    ("call left open", question("a", [call()], [result()]), question("a", [call()]), f"messages.1: {LATE}"),
    (
        "text before results",
        question("a", [call()], [result(), text()]),
        question("a", [call()], [text(), result()]),
        f"messages.1: {LATE}",
    ),
    (
        "orphan",
        question("a", [call()], [result()]),
        question([result()]),
        "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1.",
    ),
    (
        "two calls of an id",
        question("a", [call(), call("toolu_2")], [result(), result("toolu_2")]),
        question("a", [call(), call()], [result()]),
        "messages.1.content.1: `tool_use` ids must be unique",
    ),
    (
        "two results",
        question("a", [call()], [result()]),
        question("a", [call()], [result(), result()]),
        (
            "messages.2.content.1: each tool_use must have a single result. "
            "Found multiple `tool_result` blocks with id: toolu_1"
        ),
    ),
    (
        "call id",
        question("a", [call("a-b_1")], [result("a-b_1")]),
        question("a", [call("a b")], [result("a b")]),
        "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    ),
    (
        "call name",
        question("a", [call(name="n" * 200)], [result()]),
        question("a", [call(name="n" * 201)], [result()]),
        "messages.1.content.0.tool_use.name: String should have at most 200 characters",
    ),
    (
        "results in two messages",
        question("a", [call(), call("toolu_2")], spoken("user", [result()]), spoken("user", [result("toolu_2")])),
        question("a", [call(), call("toolu_2")], spoken("user", [result()])),
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_2.",
    ),
    (
        "is_error of null",
        question("a", [call()], [without(result(is_error=True), "content")]),
        question("a", [call()], [result(is_error=None)]),
        "messages.2.content.0.tool_result.is_error: Input should be a valid boolean",
    ),
    (
        "server call without result",
        question("a", [search(), found(), text()], "b", tools=[SEARCH]),
        question("a", [search(), text()], "b", tools=[SEARCH]),
        "`web_search` tool use with id `srvtoolu_1` was found without a corresponding `web_search_tool_result` block",
    ),
    (
        "server result without call",
        question("a", [search(), found()], "b"),
        question("a", [found()], "b"),
        "messages.1.content.0: unexpected `tool_use_id` found in `web_search_tool_result` blocks: srvtoolu_1.",
    ),
    (
        "mixed turn",
        question("a", [search(), call()], [result()], tools=[SEARCH, TOOL]),
        question("a", [search(), call()], [result(), text()], tools=[SEARCH, TOOL]),
        "`web_search` tool use with id `srvtoolu_1` was found without",
    ),
    (
        "resumed without the tool",
        question("a", [search()], tools=[SEARCH]),
        question("a", [search()]),
        (
            "`web_search` tool use with id `srvtoolu_1` was found without a corresponding `web_search_tool_result` "
            "block, but no `web_search` tool was provided"
        ),
    ),
    ("prefill", question("a", "b", model=OLD), question("a", "b"), PREFILL),
    (
        "prefill ending in a space",
        question("a", "The answer is (", model=OLD),
        question("a", "The answer is ", model=OLD),
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    (
        "prefill and thinking",
        question("a", "b", model=OLD, max_tokens=2048),
        question("a", "b", model=OLD, max_tokens=2048, thinking=THINKING),
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`",
    ),
    (
        "prefill and structured output",
        question("a", "b", model=OLD),
        question("a", "b", model=OLD, output_config=FORMAT),
        "output_config.format: structured outputs cannot be combined with prefill",
    ),
    ("pause", question("a", [search(), found()], tools=[SEARCH]), question("a", [text()]), PREFILL),
    (
        "system of an older model",
        question("a", spoken("system")),
        question("a", spoken("system"), model="claude-sonnet-5"),
        "role 'system' is not supported on this model",
    ),
    (
        "system between users",
        question("a", spoken("system"), spoken("assistant"), HI),
        question("a", spoken("system"), HI),
        "messages.1: role 'system' must be last or be followed by an assistant turn",
    ),
    (
        "system after the assistant",
        question("a", "b", "c", spoken("system")),
        question("a", "b", spoken("system")),
        "messages.2: role 'system' must directly follow a user turn",
    ),
    (
        "clear_at without its beta",
        question("a", spoken("system")),
        question("a", spoken("system", clear_at="never")),
        "messages.1.clear_at: Extra inputs are not permitted",
    ),
    ("thinking kind", question(thinking={"type": "adaptive"}), question(thinking=THINKING), '"thinking.type.enabled"'),
    (
        "adaptive on an older model",
        question(model=OLD, thinking={"type": "disabled"}),
        question(model=OLD, thinking={"type": "adaptive"}),
        "adaptive thinking is not supported on this model",
    ),
    (
        "budget above max_tokens",
        question(model=OLD, thinking=THINKING, max_tokens=1025),
        question(model=OLD, thinking=THINKING, max_tokens=1024),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    (
        "budget too small",
        question(model=OLD, thinking=THINKING, max_tokens=2000),
        question(model=OLD, thinking=THINKING | {"budget_tokens": 1023}, max_tokens=2000),
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    (
        "effort of a model without",
        question(output_config={"effort": "max"}),
        question(model=OLD, output_config={"effort": "low"}),
        "output_config.effort 'low' is not supported for this model.",
    ),
    (
        "high effort without thinking",
        question(model="claude-opus-5", thinking={"type": "disabled"}, output_config={"effort": "high"}),
        question(model="claude-opus-5", thinking={"type": "disabled"}, output_config={"effort": "xhigh"}),
        "output_config.effort 'xhigh' is not supported when thinking is disabled on this model.",
    ),
    (
        "tool names",
        question(tools=[TOOL, SEARCH]),
        question(tools=[TOOL, TOOL]),
        "tools: Tool names must be unique.",
    ),
    (
        "tool name",
        question(tools=[TOOL | {"name": "n" * 128}]),
        question(tools=[TOOL | {"name": "n" * 129}]),
        "tools.0.custom.name: String should have at most 128 characters",
    ),
    (
        "tool schema",
        question(tools=[TOOL]),
        question(tools=[TOOL | {"input_schema": {"type": "string"}}]),
        "tools.0.custom.input_schema.type: Input should be 'object'",
    ),
    ("tool without schema", question(tools=[TOOL]), question(tools=[{"name": "a"}]), "tools.0.custom.input_schema:"),
    (
        "forced tool",
        question(tools=[TOOL], tool_choice={"type": "any"}, model="claude-opus-5"),
        question(tools=[TOOL], tool_choice={"type": "any"}),
        'tool_choice: type "tool" and "any" are not supported for this model.',
    ),
    (
        "choice without tools",
        question(tools=[TOOL], tool_choice={"type": "auto"}),
        question(tool_choice={"type": "auto"}),
        "tool_choice: may only be specified while providing tools.",
    ),
    (
        "choice of an unknown tool",
        question(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"}, model=OLD),
        question(tools=[TOOL], tool_choice={"type": "tool", "name": "wether"}, model=OLD),
        "tool_choice: Tool 'wether' not found in provided tools",
    ),
    ("place", question(inference_geo="us"), question(inference_geo="us", model=OLD), "inference_geo:"),
    ("speed", question(speed="fast", model="claude-opus-5-5"), question(speed="fast"), "speed: Extra inputs"),
    ("no object", question(), [], "Input should be a valid dictionary"),
    ("no JSON", question(), b'{"model":', "The request body is not valid JSON: "),
    ("no number", question(), b'{"max_tokens": NaN}', "The request body is not valid JSON: "),
    ("no UTF-8", question(), b'{"model": "\xff"}', "The request body is not valid JSON: "),
    (
        "lone surrogate",
        question("\U0001f41c"),
        question("\ud83d"),
        "The request body is not valid JSON: no low surrogate in string",
    ),
    ("long prompt", question("a" * 4000), question("a" * 4_000_000), "prompt is too long: 10000"),
]


@pytest.mark.parametrize(("name", "good", "bad", "words"), RULES, ids=[rule[0] for rule in RULES])
def test_a_rule_lets_the_right_body_through_and_names_what_is_wrong(
    api: MessagesAPI, name: str, good: Any, bad: Any, words: str
) -> None:
    """Each rule takes the body that keeps it and answers the one that breaks it with the API's words."""
    taken = ask(api, good)
    assert taken.status == 200, taken.error
    refused = ask(api, bad)
    assert (refused.status, refused.json["error"]["type"]) == (400, "invalid_request_error")
    assert refused.error.startswith(words)
    assert refused.headers["x-should-retry"] == "false"


BETA_BODIES: list[tuple[str, Any]] = [
    (MCP, question(mcp_servers=[])),
    (MCP, question("a", [{"type": "mcp_tool_listing", "mcp_server_name": "a", "tools": []}], "b")),
    ("compact-2026-01-12", question([{"type": "compaction", "content": "So far."}, text()])),
    ("mid-conversation-system-clear-at-2026-08-21", question("a", spoken("system", clear_at="never"))),
    (
        "mid-conversation-output-config-2026-07-01",
        question({"role": "system", "output_config": {"effort": "low"}}, HI),
    ),
    ("fast-mode-2026-02-01", question(speed="fast")),
    (
        "thinking-binding-controls-2026-08-01",
        question(thinking={"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}),
    ),
]


@pytest.mark.parametrize(("beta", "body"), BETA_BODIES, ids=[each[0] for each in BETA_BODIES])
def test_a_beta_header_opens_what_is_closed_without_it(api: MessagesAPI, beta: str, body: Any) -> None:
    """A beta key or block is taken with its beta header, also among others, and refused without."""
    assert ask(api, body, beta=f"other-2026-01-01, {beta}").status == 200
    assert ask(api, body).status == 400


@pytest.mark.parametrize(
    ("body", "before", "now"),
    [
        (question(temperature=0.5, model=OLD), 200, 400),
        (question(temperature=0.5), 400, 400),
        (question(temperature=2, model=OLD), 400, 400),
        (question(temperature=0.5, model=OLD, thinking=THINKING, max_tokens=2000), 400, 400),
        (question(top_p=0.96, model=OLD, thinking=THINKING, max_tokens=2000), 200, 400),
        (question([text(citations=[CITATION])]), 200, 400),
        (question("a", [document()], "b"), 200, 400),
    ],
)
def test_the_api_version_decides_what_is_accepted(api: MessagesAPI, body: Any, before: int, now: int) -> None:
    """Sampling, documents of the assistant and citations of the user end with version 2026-10-21."""
    assert ask(api, body, version=FIRST).status == before
    assert ask(api, body, version=LATEST).status == now


HEADERS: list[tuple[dict[str, str | None], int, str]] = [
    ({}, 200, ""),
    ({"x-api-key": None, "authorization": "Bearer sk-ant-loopback"}, 200, ""),
    ({"content-type": "application/json; charset=UTF-8"}, 200, ""),
    ({"x-api-key": None}, 401, "x-api-key header is required"),
    ({"x-api-key": "wrong"}, 401, "invalid x-api-key"),
    ({"x-api-key": None, "authorization": "Bearer wrong"}, 401, "Invalid bearer token"),
    ({"authorization": "Bearer sk-ant-loopback"}, 400, "Only one of"),
    ({"anthropic-version": None}, 400, "anthropic-version: header is required"),
    ({"anthropic-version": "2024-01-01"}, 400, 'anthropic-version: "2024-01-01" is not a valid version'),
    ({"content-type": "text/plain"}, 400, "content-type: must be application/json"),
    ({"content-type": "application/json; charset=utf-16"}, 400, "unsupported charset: utf-16"),
    ({"content-encoding": "br"}, 400, "unsupported Content-Encoding: br"),
    ({"content-encoding": "gzip"}, 400, "the body is not what Content-Encoding says"),
]


@pytest.mark.parametrize(("change", "status", "words"), HEADERS)
def test_headers_are_checked(api: MessagesAPI, change: dict[str, str | None], status: int, words: str) -> None:
    """The key, the version and the content type are asked for as the API asks for them."""
    given = {name: value for name, value in (headers(api) | change).items() if value is not None}
    reply = ask(api, question(), head=given)
    assert reply.status == status
    assert words in (reply.error if words else reply.text)
    assert reply.headers["request-id"] == api.requests[0].id
    if words:
        assert reply.json["request_id"] == api.requests[0].id


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/complete", 404),
        ("GET", "/v1/models/claude-2", 404),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/claude-opus-4-5", 200),
    ],
)
def test_paths_and_methods(api: MessagesAPI, method: str, path: str, status: int) -> None:
    """An unknown path is 404, a known one asked with another method 405."""
    assert ask(api, b"", method=method, path=path).status == status


ASSISTANT = [
    {"type": "thinking", "thinking": "", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
    text(citations=[CITATION]),
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": None},
    search(),
    found() | {"caller": {"type": "direct"}},
    {"type": "server_tool_use", "id": "srvtoolu_2", "name": "bash_code_execution", "input": {}},
    {"type": "bash_code_execution_tool_result", "tool_use_id": "srvtoolu_2", "content": {"type": "x"}},
    {"type": "connector_text", "words": "opaque"},
    {"type": "container_upload", "file_id": "file_1"},
    call(caller={"type": "code_execution_20260120", "tool_id": "srvtoolu_2"}, toolset_name=None),
]
RESULTS = [
    text(),
    image(),
    document(),
    {"type": "tool_reference", "tool_name": "weather"},
]


@pytest.mark.parametrize("place", range(len(ASSISTANT)))
def test_every_kind_of_block_is_checked(api: MessagesAPI, place: int) -> None:
    """A turn with every kind of block is taken, and none of its closed kinds takes a key more."""
    answered = [result(content=RESULTS), text()]
    assert ask(api, question("a", ASSISTANT, answered)).status == 200
    more = [block | {"index": 0} if at == place else block for at, block in enumerate(ASSISTANT)]
    reply = ask(api, question("a", more, answered))
    kind = ASSISTANT[place]["type"]
    if kind == "connector_text":
        assert reply.status == 200
    else:
        assert reply.error == f"messages.1.content.{place}.{kind}.index: Extra inputs are not permitted"


def test_an_unknown_model_is_not_found(api: MessagesAPI) -> None:
    """A retired or unknown model is answered with 404 and its name."""
    reply = ask(api, question(model="claude-3-opus-20240229"))
    assert (reply.status, reply.json["error"]) == (
        404,
        {"type": "not_found_error", "message": "model: claude-3-opus-20240229"},
    )


def test_models_can_be_added() -> None:
    """A model of one's own is known, with the abilities it was given."""
    with MessagesAPI(models=["claude-next", Model("claude-back", prefill=True, thinks=False)]) as api:
        assert ask(api, question(model="claude-next")).status == 200
        assert ask(api, question("a", "b", model="claude-next")).error == PREFILL
        assert ask(api, question("a", "b", model="claude-back")).status == 200
        listed = ask(api, b"", method="GET", path="/v1/models").json["data"]
        assert len(listed) == len(MODELS) + 2


def test_only_three_models_take_a_prefill(api: MessagesAPI) -> None:
    """Prefill is taken by the three 4.5 models, under either of their names, and by no other."""
    names = [name for model in MODELS for name in (model.id, model.alias) if name]
    taking = {name for name in names if ask(api, question("a", "b", model=name)).status == 200}
    assert taking == {
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
    }


@pytest.mark.parametrize("encoded", [False, True])
def test_a_body_over_the_limit_is_too_large(*, encoded: bool) -> None:
    """A body of the limit passes, one byte more is 413; compressed bodies are measured unpacked."""
    body = json.dumps(question("a" * 100)).encode()
    for limit, status in ((len(body), 200), (len(body) - 1, 413)):
        with MessagesAPI(limit=limit) as api:
            given = headers(api) | ({"content-encoding": "gzip"} if encoded else {})
            reply = ask(api, gzip.compress(body) if encoded else body, head=given)
            assert reply.status == status
            if status == 413:
                assert reply.json["error"]["type"] == "request_too_large"


def test_an_easy_going_api_checks_no_rules() -> None:
    """With strict=False any body that has messages is answered."""
    with MessagesAPI(strict=False) as api:
        assert ask(api, question([{"type": "hologram"}], model="claude-next", colour="red")).status == 200
        assert ask(api, {}).status == 400


def test_count_tokens_answers_a_number_and_keeps_the_rules(api: MessagesAPI) -> None:
    """Counting runs the same checks, and knows no max_tokens."""
    path = "/v1/messages/count_tokens"
    body = without(question(), "max_tokens")
    assert ask(api, body, path=path).json == {"input_tokens": 12}
    assert ask(api, question(), path=path).error == "max_tokens: Extra inputs are not permitted"
    assert ask(api, body | {"messages": []}, path=path).error == "messages: at least one message is required"


# -- answers -------------------------------------------------------------------------------------------------


def test_an_answer_has_every_field_of_a_message(api: MessagesAPI) -> None:
    """A scripted text becomes a whole message, compact, with a usage that is counted."""
    api.answer("Hello!")
    reply = ask(api, question(model=OLD))
    assert reply.raw.startswith(b'{"model":"claude-sonnet-4-5-20250929","id":"msg_01')
    assert without(reply.json, "id") == {
        "model": "claude-sonnet-4-5-20250929",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 3,
            "service_tier": "standard",
            "inference_geo": "global",
        },
    }


def test_the_same_questions_get_the_same_bytes() -> None:
    """Ids are counted from the seed: two runs answer alike, another seed answers with other ids."""
    runs = []
    for seed in (0, 0, 1):
        with MessagesAPI(seed=seed) as api:
            runs.append([ask(api, question()).raw for _ in range(2)])
    assert runs[0] == runs[1]
    assert len({raw for run in runs for raw in run}) == 4


def test_answers_come_in_order_and_a_refused_request_uses_none(api: MessagesAPI) -> None:
    """Text, Answer, bytes, dict and function are all answers; a request that is refused leaves them alone."""

    def shout(request: Request) -> str:
        return str(request.body["messages"][-1]["content"]).upper()

    api.answer("one", Answer([call()], usage={"input_tokens": 7}, model="m", headers={"x-a": "b"}))
    api.answer(b'{"content" : [ ]}', {"content": [text("four")]}, shout, lambda _: None)
    assert ask(api, question("")).status == 400
    assert api.scripted == 6
    assert ask(api, question()).text == "one"
    second = ask(api, question())
    assert (second.json["stop_reason"], second.json["model"]) == ("tool_use", "m")
    assert (second.json["usage"]["input_tokens"], second.headers["x-a"]) == (7, "b")
    assert ask(api, question()).raw == b'{"content" : [ ]}'
    assert ask(api, question()).raw == b'{"content":[{"type":"text","text":"four"}]}'
    assert ask(api, question("hey")).text == "HEY"
    assert ask(api, question("hey")).text == "Hello!"
    assert api.scripted == 0


def test_a_failing_function_is_answered_with_500(api: MessagesAPI) -> None:
    """An exception in a test's own function reaches the caller as a server error that names it."""
    api.answer(lambda request: request.body["missing"])
    reply = ask(api, question())
    assert (reply.status, reply.error) == (500, "KeyError('missing')")


def test_what_the_api_answered_it_takes_back(api: MessagesAPI) -> None:
    """A block of a kind nobody knows is refused from a caller, and taken once the API itself has sent it."""
    new = {"type": "hologram", "data": {"z": 1, "a": None}}
    assert ask(api, question("a", [new], "b")).status == 400
    api.answer(Answer([new]))
    ask(api, question())
    assert ask(api, question("a", [new], "b")).status == 200
    assert ask(api, question("a", [new | {"data": 2}], "b")).status == 400


def test_everything_asked_is_kept(api: MessagesAPI) -> None:
    """A request shows its path, headers without regard to case, exact bytes, time, status and what was sent back."""
    raw = b'{ "model":"claude-sonnet-5-5","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}'
    before = time.time()
    reply = ask(api, raw, path="/v1/messages?beta=true")
    request = api.requests[-1]
    assert (request.method, request.path, request.query) == ("POST", "/v1/messages", "beta=true")
    assert request.raw == raw
    assert request.body["max_tokens"] == 8
    assert request.headers["Anthropic-Version"] == LATEST
    assert before <= request.at <= time.time()
    assert (request.status, request.response) == (200, reply.raw)
    assert api.key not in repr(request)
    api.clear()
    assert api.requests == ()


def test_waiting_for_a_request(api: MessagesAPI) -> None:
    """A test may wait until a request has arrived, before it is answered."""
    api.fail(Fault.delay(5))

    def work() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(api, question())

    asking = threading.Thread(target=work)
    asking.start()
    assert api.wait(1)[0].status is None
    with pytest.raises(TimeoutError, match="1 of 2 requests"):
        api.wait(2, timeout=0.01)
    api.close()
    asking.join()


def test_the_example_of_the_package_runs() -> None:
    """The example in the package's documentation does what it says."""
    ran = doctest.testmod(conversation_store.testing)
    assert (ran.attempted > 3, ran.failed) == (True, 0)


def test_the_package_needs_the_standard_library_alone() -> None:
    """Importing it loads no other distribution, and nothing of the package beside itself."""
    code = (
        "import sys; import conversation_store.testing as t; "
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "{'requests', 'urllib3', 'sqlalchemy', 'attr', 'cattrs'} or m.startswith('conversation_store.') "
        "and not m.startswith('conversation_store.testing')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# -- the offline model ---------------------------------------------------------------------------------------

ANT = "What is latin for Ant? (A) Apoidea, (B) Rhopalocera, (C) Formicidae"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"GIF89a\x02\0\x03\0", "image/gif"),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xc2\0\x0b\x08\0\x03\0\x02\x03", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x02\0\x03\0", "image/webp"),
        (b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x01\x80\0\0\0\0\0\0\0", "image/webp"),
        (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x01\0\0\x02\0\0", "image/webp"),
    ],
)
def test_images_are_measured(data: bytes, kind: str) -> None:
    """The kind and the dimensions of an image are read from its bytes; cut short, it has none."""
    assert images.media_type(data) == kind
    assert images.size(data) == (2, 3)
    assert images.size(data[:9]) is None
    assert images.media_type(b"BM") is None


@pytest.mark.parametrize(
    ("body", "words", "reason"),
    [
        (question(), "Hello!", "end_turn"),
        (
            question("Hello", "Hello!", "Can you describe LLMs to me?", max_tokens=8),
            "Sure, I'd be happy",
            "max_tokens",
        ),
        (question(ANT, "The answer is (", model=OLD, max_tokens=1), "C", "max_tokens"),
        (question(ANT, "The answer is (", model=OLD), "C) Formicidae.", "end_turn"),
        (question(ANT, "I think", model=OLD), " The answer is (C) Formicidae.", "end_turn"),
        (question(ANT, "{", model=OLD), '"answer":"The answer is (C) Formicidae."}', "end_turn"),
        (question(ANT, stop_sequences=["zzz", ")"]), "The answer is (C", "stop_sequence"),
        (question([image(), text("What is this?")]), "The image is image/png of 2 by 3 pixels, 29 bytes.", "end_turn"),
        (question([document()]), "The document is text/plain, 16 characters.", "end_turn"),
        (question("a", [call()], [result()]), "The tool answered: 18 degrees.", "end_turn"),
        (question("Good morning"), "You said: Good morning", "end_turn"),
        (question(max_tokens=0), "", "max_tokens"),
        (question(output_config=FORMAT), "{}", "end_turn"),
    ],
)
def test_the_offline_model_answers_from_the_request(api: MessagesAPI, body: Any, words: str, reason: str) -> None:
    """Without a script the answer follows from the question, its prefill, its limits and its attachments."""
    reply = ask(api, body)
    assert (reply.text, reply.json["stop_reason"]) == (words, reason)
    assert ask(api, body).text == words


def test_the_offline_model_names_the_stop_sequence(api: MessagesAPI) -> None:
    """The sequence that stopped the model is told."""
    assert ask(api, question(ANT, stop_sequences=[")"])).json["stop_sequence"] == ")"


def test_the_offline_model_calls_a_tool_it_must_call(api: MessagesAPI) -> None:
    """A forced tool is called with the smallest input its schema allows."""
    tool = TOOL | {"input_schema": TOOL["input_schema"] | {"required": ["city"]}}  # type: ignore[operator]
    reply = ask(api, question(tools=[tool], tool_choice={"type": "any"}, model=OLD))
    assert reply.json["content"][0]["input"] == {"city": "text"}
    assert reply.json["stop_reason"] == "tool_use"


def test_something_else_may_answer_what_is_not_scripted() -> None:
    """With otherwise=echo the last user turn comes back."""
    with MessagesAPI(otherwise=echo) as api:
        assert ask(api, question("Bonjour")).text == "Bonjour"


# -- streams -------------------------------------------------------------------------------------------------


def test_a_stream_tells_the_same_message(api: MessagesAPI) -> None:
    """The events of a stream add up to the content, stop reason and usage of the plain answer."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    blocks = [thought, text("Let me check."), call(input={"city": "Zürich"})]
    api.answer(Answer(blocks))
    reply = ask(api, question(stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    told = events(reply.raw)
    built: list[dict[str, Any]] = []
    written = ""
    for event in told:
        if event["type"] == "content_block_start":
            built.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = {key: value for key, value in event["delta"].items() if key != "type"}
            written += delta.pop("partial_json", "")
            for key, value in delta.items():
                built[-1][key] = built[-1][key] + value
    built[-1]["input"] = json.loads(written)
    assert built == blocks
    assert [told[0]["type"], told[-2]["delta"]["stop_reason"], told[-1]["type"]] == [
        "message_start",
        "tool_use",
        "message_stop",
    ]
    assert "ping" in {event["type"] for event in told}


def test_a_stream_can_end_in_an_error(api: MessagesAPI) -> None:
    """An interrupted stream has as many events as it was given, then an error event, under status 200."""
    api.fail(Fault.interrupt(3))
    reply = ask(api, question(stream=True))
    assert reply.status == 200
    assert [event["type"] for event in events(reply.raw)][-2:] == ["ping", "error"]
    assert events(reply.raw)[-1]["error"]["type"] == "overloaded_error"


def test_a_stream_of_bytes_is_sent_as_it_is(api: MessagesAPI) -> None:
    """Scripted bytes that begin like an event are a stream."""
    api.answer(b"event: ping\ndata: {}\n\n")
    reply = ask(api, question(stream=True))
    assert (reply.raw, reply.headers["content-type"]) == (b"event: ping\ndata: {}\n\n", "text/event-stream")


# -- faults --------------------------------------------------------------------------------------------------


def test_a_fault_meets_as_many_requests_as_it_is_told(api: MessagesAPI) -> None:
    """Two overloaded answers with their headers, then the answer that was scripted after them."""
    api.fail(Fault.status(529, retry_after=0.01, retry_after_ms=10, should_retry=True), times=2)
    api.answer("at last")
    for _ in range(2):
        reply = ask(api, question())
        assert (reply.status, reply.json["error"]) == (529, {"type": "overloaded_error", "message": "Overloaded"})
        assert [reply.headers[name] for name in ("retry-after", "retry-after-ms", "x-should-retry")] == [
            "0.01",
            "10",
            "true",
        ]
    assert ask(api, question()).text == "at last"
    assert [request.status for request in api.requests] == [529, 529, 200]


def test_a_fault_meets_any_request(api: MessagesAPI) -> None:
    """Also a request the API would refuse, and one to another endpoint, meets the fault."""
    api.fail(Fault.status(429, error_code="enforced_spend_limit_reached"), times=2)
    refused = ask(api, {})
    assert refused.json["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
    assert ask(api, b"", method="GET", path="/v1/models").status == 429


def test_an_error_body_need_not_be_json(api: MessagesAPI) -> None:
    """A proxy's page comes back as it was given."""
    api.fail(Fault.status(502, body="<html>Bad gateway</html>", headers={"content-type": "text/html"}))
    reply = ask(api, question())
    assert (reply.status, reply.raw, reply.headers["content-type"]) == (502, b"<html>Bad gateway</html>", "text/html")


@pytest.mark.parametrize("code", [302, 307])
def test_a_redirect_names_the_other_url(api: MessagesAPI, code: int) -> None:
    """A redirect has its status, its location and no body."""
    api.fail(Fault.redirect("http://127.0.0.1:9/elsewhere", code))
    reply = ask(api, question())
    assert (reply.status, reply.raw, reply.headers["location"]) == (code, b"", "http://127.0.0.1:9/elsewhere")


def test_a_delayed_answer_comes_late(api: MessagesAPI) -> None:
    """A delay comes before the first byte, and the answer is a valid request's answer."""
    api.fail(Fault.delay(0.1, "slow"))
    started = time.monotonic()
    assert ask(api, question()).text == "slow"
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize(
    ("fault", "error", "read"),
    [
        (Fault.close(), http.client.RemoteDisconnected, 1),
        (Fault.close(read=False), ConnectionError, 0),
        (Fault.reset(), ConnectionResetError, 1),
        (Fault.reset(read=False), ConnectionResetError, 0),
        (Fault.garbage(b"SSH-2.0-OpenSSH\r\n"), http.client.BadStatusLine, 1),
    ],
)
def test_a_dropped_connection_sends_no_answer(
    api: MessagesAPI, fault: Fault, error: type[Exception], read: int
) -> None:
    """The connection ends without an answer; the request is in the log only where it was read."""
    api.fail(fault)
    with pytest.raises(error):
        ask(api, question())
    assert (len(api.requests), api.unread) == (read, 1 - read)
    assert ask(api, question()).status == 200


@pytest.mark.parametrize("after", [0, 1, 17, 100])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_cut_answer_is_cut_after_exactly_so_many_bytes(api: MessagesAPI, after: int, then: Any) -> None:
    """Of the announced body exactly the given number of bytes arrives, then the connection ends as told."""
    api.fail(Fault.cut(after, then=then, answer="a" * 1000))
    body, reset = received(api, question())
    assert (len(body), reset) == (after, then == "reset")
    assert api.requests[0].response == body


def test_a_large_answer_is_cut_exactly_before_a_reset(api: MessagesAPI) -> None:
    """A reset takes nothing back of what was sent before it."""
    api.fail(Fault.cut(1_000_001, then="reset", answer="a" * 2_000_000))
    body, reset = received(api, question())
    assert (len(body), reset) == (1_000_001, True)


def test_a_stalled_answer_stays_open(api: MessagesAPI) -> None:
    """After the cut nothing comes, and nothing ends, until somebody closes."""
    api.fail(Fault.cut(5, then="stall", answer="Hello!"))
    body, reset = received(api, question())
    assert (body, reset) == (b'{"mod<stalled>', False)


def test_a_cut_stream_counts_the_bytes_of_its_events(api: MessagesAPI) -> None:
    """In a stream the chunk framing is not counted, and the end of the stream is not sent."""
    api.fail(Fault.cut(300, answer="Hello!"))
    with connect(api) as connection:
        connection.request("POST", "/v1/messages", json.dumps(question(stream=True)), headers(api))
        with pytest.raises(http.client.IncompleteRead) as caught:
            connection.getresponse().read()
    assert len(caught.value.partial) == 300


def test_a_trickling_answer_arrives_whole(api: MessagesAPI) -> None:
    """A slow body comes in small pieces and is the same body."""
    api.fail(Fault.trickle(size=200, pause=0.02, answer="slowly"))
    started = time.monotonic()
    assert ask(api, question()).text == "slowly"
    assert time.monotonic() - started >= 0.04


# -- the wire ------------------------------------------------------------------------------------------------


def test_chunked_bodies_are_read(api: MessagesAPI) -> None:
    """A body in chunks, trailers included, is the same body."""
    data = json.dumps(question()).encode()
    with connect(api) as connection:
        for _ in range(2):
            pieces = iter([data[:10], data[10:]])
            connection.request("POST", "/v1/messages", pieces, headers(api), encode_chunked=True)
            assert json.loads(connection.getresponse().read())["content"][0]["text"] == "Hello!"
    assert [request.raw for request in api.requests] == [data, data]


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress])
def test_compressed_bodies_are_read(api: MessagesAPI, packed: Any) -> None:
    """A compressed body is unpacked; the log keeps what was sent."""
    encoding = "gzip" if packed is gzip.compress else "deflate"
    data = packed(json.dumps(question()).encode())
    assert ask(api, data, head=headers(api) | {"content-encoding": encoding}).text == "Hello!"
    assert (api.requests[0].raw, api.requests[0].body["max_tokens"]) == (data, 64)


def test_a_connection_is_kept_and_requests_are_quick(api: MessagesAPI) -> None:
    """One connection serves 300 requests, well within a second on an idle machine."""
    data = json.dumps(question()).encode()
    with connect(api) as connection:
        started = time.monotonic()
        for _ in range(300):
            connection.request("POST", "/v1/messages", data, headers(api))
            connection.getresponse().read()
    assert time.monotonic() - started < 10
    assert (api.connections, len(api.requests)) == (1, 300)


def test_many_threads_may_ask_at_once(api: MessagesAPI) -> None:
    """Every request of eight threads is answered and logged, each with an id of its own."""

    def work() -> None:
        for _ in range(25):
            assert ask(api, question()).status == 200

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({request.id for request in api.requests}) == 200


@pytest.mark.parametrize("sent", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n", b"", b"\x16\x03\x01\r\n"])
def test_what_is_no_http_is_dropped_quietly(api: MessagesAPI, sent: bytes) -> None:
    """Bytes that are no request, or only half of one, end their connection and nothing else."""
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert api.requests == ()
    assert ask(api, question()).status == 200


def test_nothing_is_printed(api: MessagesAPI, capfd: pytest.CaptureFixture[str]) -> None:
    """Errors, faults and answers leave standard output and standard error alone."""
    api.fail(Fault.reset())
    with pytest.raises(ConnectionResetError):
        ask(api, question())
    ask(api, b"{")
    ask(api, question())
    assert capfd.readouterr() == ("", "")


def test_closing_leaves_no_thread_and_no_open_port() -> None:
    """Close ends idle, stalled and waiting connections at once; a second close does nothing."""
    before = threading.active_count()
    api = MessagesAPI()
    api.fail(Fault.cut(1, then="stall"))
    api.fail(Fault.delay(60))
    with connect(api) as idle, connect(api) as stalled, connect(api) as waiting:
        for connection in (stalled, waiting):
            connection.request("POST", "/v1/messages", json.dumps(question()), headers(api))
            api.wait(2 if connection is waiting else 1)
        idle.connect()
        started = time.monotonic()
        api.close()
        api.close()
        assert time.monotonic() - started < 2
        assert threading.active_count() == before
        with pytest.raises(ConnectionRefusedError), connect(api) as late:
            late.connect()


def test_python_m_serves_until_it_is_interrupted() -> None:
    """The command prints where it is and which key it takes, echoes when asked to, and ends on Ctrl-C."""
    command = [sys.executable, "-m", "conversation_store.testing", "--key", "sk-mine", "--echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("ANTHROPIC_BASE_URL=")
        assert process.stdout.readline() == "ANTHROPIC_API_KEY=sk-mine\n"
        host, port = url.removeprefix("http://").split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
            given = {"authorization": "Bearer sk-mine", "anthropic-version": LATEST, "content-type": "application/json"}
            connection.request("POST", "/v1/messages", json.dumps(question("Bonjour")), given)
            assert json.loads(connection.getresponse().read())["content"][0]["text"] == "Bonjour"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
