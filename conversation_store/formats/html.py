"""
A transcript as one HTML file: everything inside, nothing fetched, nothing run.

Whatever was said is text: it is escaped, and stands in no attribute. Pictures are ``data:`` URIs of bytes that were
recognised; addresses are shown and lead nowhere. A policy in the file forbids the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from typing import Final
from uuid import UUID

from conversation_store.formats.reading import (
    Cover,
    Erased,
    Folded,
    Picture,
    Piece,
    Verdict,
    Words,
    origin_line,
    pieces_of,
    source_of,
)
from conversation_store.formats.wording import moment
from conversation_store.record import splices
from conversation_store.record.turns import Turn

STYLE: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1b1f;--dim:#5c5f66;--line:#d9dbe0;--code:#f4f5f7;
--human:#1f5fbf;--model:#1c7a45;--synthetic:#a85b00;--tool:#5d6470;--system:#7a3ea8;--imported:#0f7480;
--mark:#ffe7a8;--mark-ink:#4a3200;--fault:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#17181b;--ink:#e9eaee;--dim:#a2a6ae;--line:#373a41;--code:#212328;
--human:#86b4ff;--model:#72d39b;--synthetic:#ffb45c;--tool:#b3b9c4;--system:#d3a5f7;--imported:#67d1de;
--mark:#5a4300;--mark-ink:#ffe7a8;--fault:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:52rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .75rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:0 0 1rem;font-size:.85rem;color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere;unicode-bidi:isolate}
ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:0 0 1.5rem;padding:0;font-size:.85rem}
article{border-left:.3rem solid var(--who);padding:.1rem 0 .1rem .9rem;margin:0 0 1.4rem}
h2{font-size:.9rem;margin:0 0 .3rem;color:var(--who);display:flex;flex-wrap:wrap;gap:0 .6rem;align-items:baseline}
h2 span{font-weight:400;overflow-wrap:anywhere;unicode-bidi:isolate}
time,.from{color:var(--dim);font-size:.8rem;font-weight:400}
.human{--who:var(--human)}.model{--who:var(--model)}.synthetic,.prefill{--who:var(--synthetic)}
.tool{--who:var(--tool)}.system{--who:var(--system)}.summary,.imported{--who:var(--imported)}
li{color:var(--who)}li::before{content:"";display:inline-block;width:.8em;height:.8em;margin-right:.35em;
background:var(--who);vertical-align:-.05em}
li.prefill::before{background:var(--mark);outline:1px solid var(--who)}
article.synthetic{border-left-style:dashed}
.erased{--who:var(--dim);opacity:.8}
.verdict{border:2px solid var(--model);border-radius:.35rem;padding:.5rem .8rem;margin:0 0 1.2rem}
.verdict.broken,.fault{border-color:var(--fault)}
.verdict li{color:inherit}.verdict li::before{content:none}
.verdict p{margin:0;overflow-wrap:anywhere}
.verdict ol{margin:.5rem 0 0;padding-left:1.4rem;overflow-wrap:anywhere}
.fault{border-left:.3rem double;padding:.1rem .6rem;margin:0 0 .6rem;color:var(--fault);overflow-wrap:anywhere}
.words{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;margin:0 0 .6rem}
mark{background:var(--mark);color:var(--mark-ink);border-radius:.2em;padding:.05em .15em}
mark::after{content:" prefill ";font-size:.7em;font-weight:600;vertical-align:.2em;white-space:nowrap}
pre{background:var(--code);padding:.6rem .7rem;margin:.4rem 0;white-space:pre-wrap;overflow-wrap:anywhere;
font:.82rem/1.45 ui-monospace,monospace;unicode-bidi:isolate}
details{border:1px solid var(--line);border-radius:.35rem;padding:.25rem .7rem;margin:0 0 .6rem}
summary{cursor:pointer;color:var(--dim);font-size:.88rem;overflow-wrap:anywhere}
.thinking{font-style:italic}
figure{margin:0 0 .6rem}img{display:block;max-width:100%;max-height:32rem;height:auto;border-radius:.25rem}
figcaption,.named{color:var(--dim);font-size:.82rem;overflow-wrap:anywhere;margin:0 0 .6rem}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--dim:#444;--line:#bbb;--code:#f4f4f4;--human:#1f5fbf;
--model:#1c7a45;--synthetic:#a85b00;--tool:#444;--system:#7a3ea8;--imported:#0f7480;--mark:#ffe7a8;--mark-ink:#4a3200;--fault:#b3261e}
body{font-size:10.5pt}main{max-width:none;padding:0}h2{break-after:avoid}figure,summary{break-inside:avoid}
*{print-color-adjust:exact}
details::details-content{content-visibility:visible;block-size:auto;opacity:1}}
"""

POLICY: Final = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{splices.encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)

_WHO: Final = {
    "human": "human",
    "model": "model",
    "synthetic": "synthetic: no model wrote it",
    "prefill": "prefill: put in the model's mouth",
    "tool": "tool",
    "system": "system",
    "summary": "summary",
    "imported": "imported",
}
_CONTROLS: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    0x7F: "\u2421",
}


def written(cover: Cover, turns: Iterable[Turn | Erased], verdict: Verdict | None = None) -> Iterator[bytes]:
    """Write a transcript, turn by turn; an erased one keeps its place, and below a turn stands its fault."""
    legend = "".join(f'<li class="{name}">{_text(said)}</li>' for name, said in _WHO.items())
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in cover.facts)
    system = ""
    if cover.system:
        system = (
            f'<article class="system"><h2>system prompt</h2><div class="words">{_text(cover.system)}</div></article>'
        )
    yield _bytes(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(cover.name)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{_text(cover.name)}</h1>\n{'' if verdict is None else _verdict(verdict)}"
        f"<dl>{facts}</dl>\n<ul>{legend}</ul>\n{system}\n"
    )
    faults: dict[tuple[UUID, int], list[str]] = {}
    for of, position, fault in () if verdict is None else verdict.faults:
        faults.setdefault((of, position), []).append(fault)
    for turn in turns:
        here = faults.get((turn.conversation, turn.position), ())
        if here:
            yield _bytes(f'<div id="{_anchor(turn.conversation, turn.position)}">')
        yield from _erased(turn) if isinstance(turn, Erased) else _turn(turn)
        if here:
            yield _bytes("".join(f'<p class="fault">{_text(each)}</p>' for each in here) + "</div>\n")
    yield b"</main></body></html>\n"


def _anchor(of: UUID, position: int) -> str:
    return f"fault-{of.hex}-{position}"


def _verdict(verdict: Verdict) -> str:
    told = verdict.changed if verdict.faults else verdict.sound
    listed = "".join(
        f'<li><a href="#{_anchor(of, position)}">{_text("the row" if position < 0 else f"entry {position}")}</a>: '
        f"{_text(fault)}</li>"
        for of, position, fault in verdict.faults
    )
    return (
        f'<section class="verdict{" broken" if verdict.faults else ""}"><p><strong>Verified</strong> '
        f"<time>{moment(verdict.at)}</time>: {_text(told)}</p>{f'<ol>{listed}</ol>' if listed else ''}</section>\n"
    )


def _erased(turn: Erased) -> Iterator[bytes]:
    yield _bytes(
        f'<article class="erased"><h2>erased <span>{_text(turn.origin)}</span>'
        f"<time>{moment(turn.at)}</time></h2></article>\n"
    )


def _turn(turn: Turn) -> Iterator[bytes]:
    pieces = tuple(pieces_of(turn))
    origin = origin_line(turn, pieces)
    told = f"<span>{_text(origin)}</span>" if origin else ""
    yield _bytes(
        f'<article class="{turn.origin.value}"><h2>{_text(turn.role)} {told}<time>{moment(turn.at)}</time></h2>\n'
    )
    source = source_of(turn)
    if source:
        yield _bytes(f'<p class="from">from {_text(source)}</p>')
    for piece in pieces:
        yield from _piece(piece)
    yield b"</article>\n"


def _piece(piece: Piece) -> Iterator[bytes]:
    match piece:
        case Words(text, ours):
            mine = f"<mark>{_text(ours)}</mark>" if ours else ""
            yield _bytes(f'<div class="words">{mine}{_text(text)}</div>\n')
        case Picture(name, None):
            yield _bytes(f'<p class="named">[{_text(name)}]</p>\n')
        case Picture(name, bytes() as data, media_type):
            yield b'<figure><img alt="" src="data:%s;base64,' % media_type.encode()
            yield from splices.text([data], "base64")
            yield _bytes(f'"><figcaption>{_text(name)}</figcaption></figure>\n')
        case Folded(kind, name, text, inside):
            yield _bytes(f'<details class="{kind}"><summary>{_text(name)}</summary>')
            if text:
                yield _bytes(f"<pre>\n{_text(text)}</pre>")
            for each in inside:
                yield from _piece(each)
            yield b"</details>\n"
        case _:
            yield _bytes(f'<p class="named">[{_text(piece.name)}]</p>\n')


def _text(words: str) -> str:
    """Escape words, and show what a browser would obey or drop."""
    return escape(words.translate(_CONTROLS))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
