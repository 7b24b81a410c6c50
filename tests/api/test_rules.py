"""The rule book against the loopback API: each rule finds what is wrong where it is, and both agree on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest
from attrs import evolve

from conversation_store.api import rules
from conversation_store.api.rules.order import Outline
from conversation_store.testing import MessagesAPI
from tests.asks import CASES, Ask, Case, judge, seen
from tests.testing.asking import Reply
from tests.testing.asking import ask as post

NAMES = [f"{case.rule}-{n}" for n, case in enumerate(CASES)]
REFUSALS = {400: "invalid_request_error", 404: "not_found_error", 413: "request_too_large"}
PATH = re.compile(r"[a-z_]+(\.\w+)*\Z")


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesAPI]:
    """Keep one API for all: it knows nothing of what it is asked."""
    with MessagesAPI() as running:
        yield running


def errors(asked: Ask) -> list[tuple[str, str, str]]:
    """List what would stop a send."""
    return [(each.rule, each.path, each.message) for each in judge(asked) if each.severity == "error"]


def told(api: MessagesAPI, asked: Ask) -> Reply:
    """Post a request to the loopback API."""
    return post(api, dict(asked.body), version=asked.version, beta=",".join(asked.betas))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_rule_finds_what_is_wrong(case: Case) -> None:
    """With the severity and at the place that the API would name."""
    found = [(each.severity, each.path) for each in judge(case.wrong) if each.rule == case.rule]
    assert (case.severity, case.path) in found


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_rule_finds_nothing_in_what_is_right(case: Case) -> None:
    """Nor does any other rule say that it would be refused."""
    assert errors(case.right) == []
    assert case.rule not in {each.rule for each in judge(case.right)}


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for case, name in zip(CASES, NAMES, strict=True) if case.severity == "error"]
)
def test_the_api_refuses_what_is_wrong(case: Case, api: MessagesAPI) -> None:
    """With the documented status and type; where it names a place, one of the findings is there."""
    answer = told(api, case.wrong)
    assert answer.json["error"]["type"] == REFUSALS.get(answer.status), answer.json
    place, said, _ = answer.error.partition(": ")
    if said and PATH.match(place) and place not in {"messages", case.elsewhere}:
        paths = [path for _, path, _ in errors(case.wrong)]
        assert any(f"{path}.".startswith(f"{place}.") or f"{place}.".startswith(f"{path}.") for path in paths), (
            answer.error,
            paths,
        )


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_api_takes_what_is_right(case: Case, api: MessagesAPI) -> None:
    """The rule book and the API were written apart, and agree."""
    answer = told(api, case.right)
    assert answer.status == 200, answer.json


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_parameters_are_judged_without_their_messages(case: Case) -> None:
    """What is found in parameters is kept from request to request: no message may have a say in it."""
    for each in (case.wrong, case.right):
        asked = seen(each)
        alone = evolve(asked, outline=Outline(), size=0, prefill=not asked.prefill, looking=not asked.looking)
        assert rules.check_parameters(alone) == rules.check_parameters(asked)
        assert rules.check_request(asked, rules.check_parameters(alone)) == rules.check_request(asked)


@pytest.mark.parametrize("name", rules.BOOK)
def test_every_rule_is_in_the_table_and_cites_its_source(name: str) -> None:
    """One wrong request and one right one; the docstring says where the rule was read."""
    assert name in {case.rule for case in CASES}
    assert "Source: " in (inspect.getdoc(rules.BOOK[name]) or "")
