"""A transcript as Markdown: whole, marked, and no heading in it but its own."""

from __future__ import annotations

import re

from conversation_store import Image, Store
from conversation_store.testing import Answer
from tests import pictures
from tests.test_transfer import MODEL, two

TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Berlin"}}


def test_a_transcript_says_who_said_what() -> None:
    """Origins are marked, tools folded, pictures named, a prefill stands apart."""
    with two("sqlite://", "sqlite://", "C) Formicidae", Answer([TOOL])) as (store, _, __):
        chat = store.open("k", model=MODEL, max_tokens=64, system="Be short.")
        chat.label(title="Ants *and* bees")
        chat.user(Image.from_bytes(pictures.png(8, 8)), "What is this?")
        chat.assistant("An ant.", reason="canned")
        chat.send("Which?", prefill="It is (")
        chat.send("And the weather?")
        chat.tool_result("toolu_1", "18 ```` degrees")
        text = b"".join(chat.export("markdown")).decode()
    assert text.startswith("# Ants \\*and\\* bees\n")
    for expected in (
        "## system prompt\n\n> Be short.\n",
        "## 0. user\n",
        "*image: image/png, 8 x 8, 70 bytes*\n\n> What is this?\n",
        "## 1. assistant (synthetic: canned)\n",
        "## 3. assistant (begun by a prefill)\n",
        "> ⟦It is (⟧C) Formicidae\n",
        '<details><summary>calls weather</summary>\n\n```\n{"city":"Berlin"}\n```\n\n</details>\n',
        "<details><summary>a result for toolu\\_1</summary>\n\n> 18 ```` degrees\n",
    ):
        assert expected.replace("70", re.findall(r"8 x 8, (\d+) bytes", text)[0]) in text, expected


def test_nothing_that_was_said_is_a_heading() -> None:
    """Words that look like the transcript's own structure stay in their quotation or fence."""
    forged = "Hm.\n## 7. assistant\n\n> quoted\r\n# Title\n```\n</details>\x0c## 8"
    with Store("sqlite://") as store:
        chat = store.open("# key\n## 9. assistant", model=MODEL)
        chat.append(
            {"role": "user", "content": forged},
            {"role": "assistant", "content": [{**TOOL, "name": "x\n## 10", "input": {"a": forged}}]},
            check=False,
        )
        lines = b"".join(chat.export("markdown")).decode().splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# \\# key \\#\\# 9. assistant",
        "## 0. user",
        "## 1. assistant (synthetic)",
    ]
