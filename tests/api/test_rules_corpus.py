"""The rule book against recorded exchanges with the real API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from conversation_store.api.models import load
from tests.asks import FIRST, Ask, judge
from tests.corpus import lines, requires_corpus

pytestmark = requires_corpus


def day_of(line: Mapping[str, Any]) -> date:
    """Say when a request was recorded: where the answer has no date, on the last day its model answered, or today."""
    told = line["response"]["headers"].get("date")
    if told:
        return parsedate_to_datetime(told).date()
    model = load().get(line["request"]["body"]["model"])
    return model.retires - timedelta(days=1) if model is not None and model.retires is not None else load().as_of


def asked(line: Mapping[str, Any]) -> Ask:
    """Read a recorded request as it was sent; where headers were not kept, the version of that time is assumed."""
    headers = line["request"]["headers"]
    betas = tuple(beta.strip() for beta in headers.get("anthropic-beta", "").split(",") if beta)
    body = line["request"]["body"]
    if line["request"]["path"].endswith("count_tokens"):
        body = {"max_tokens": 1, **body}
    return Ask(body, headers.get("anthropic-version", FIRST), betas, day_of(line))


def accepted() -> Iterator[Mapping[str, Any]]:
    """Give every request that the API took."""
    for name in ("blocking", "streaming", "count_tokens"):
        yield from lines(name)


def test_no_rule_would_have_stopped_what_the_api_took() -> None:
    """Under the version, the betas and the date it was recorded with."""
    count = 0
    for line in accepted():
        found = [each for each in judge(asked(line)) if each.severity == "error"]
        assert found == [], (line["id"], found)
        count += 1
    assert count > 300


def test_a_rule_would_have_stopped_what_the_api_refused() -> None:
    """
    Every 400 that can be told from what was kept of it.

    In one the text is replaced by ``<MASSIVE_TEXT>``: it is put back at the length that the answer names.
    """
    refused = [line for line in lines("errors") if line["response"]["status"] == 400]
    assert refused
    for line in refused:
        found = {each.rule for each in judge(asked(restored(line))) if each.severity == "error"}
        assert found, line["id"]


def restored(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put words in the place of ``<MASSIVE_TEXT>``: four letters a token, as many as the API counted."""
    message = line["response"]["body"]["error"]["message"]
    if "prompt is too long" not in message:
        return line
    tokens = int(message.split(": ")[1].split()[0])
    body = line["request"]["body"]
    massive = [block for each in body["messages"] for block in each["content"] if block["text"] == "<MASSIVE_TEXT>"]
    words = "ants" * (tokens // len(massive))
    messages = [
        {
            **each,
            "content": [{**block, "text": words} if block in massive else block for block in each["content"]],
        }
        for each in body["messages"]
    ]
    return {**line, "request": {**line["request"], "body": {**body, "messages": messages}}}


def test_a_model_that_is_not_known_is_said_to_be() -> None:
    """A 404 for a name that nobody has is a warning: new models come without a release of this library."""
    for line in lines("errors"):
        if line["response"]["status"] == 404:
            assert "listed" in {each.rule for each in judge(asked(line))}
