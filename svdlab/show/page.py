"""A study, a limitations card or a bias report as one HTML file or as Markdown, from the same sections.

>>> sections = {"Findings": [Strong("Nothing moves."), pd.DataFrame({"fps": [7]})]}
>>> html = page("A study", sections, label="model organism, not SVD", footer="Licence: Apache-2.0")
>>> print(markdown("A study", sections).splitlines()[4])
**Nothing moves.**

Sections map a heading ("" for none) to blocks: a str (a paragraph; also Strong and Quote), a list of str (bullets), a
DataFrame (a first cell that is a heading links to it) or Media; in HTML also Folded and markupsafe's Markup. Text is escaped.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from svdlab.errors import InputError

Sections = Mapping[str, Iterable[Any]]
MAGIC = {rb"\x89PNG\r\n\x1a\n": "image/png", rb"\xff\xd8\xff": "image/jpeg", rb"....ftyp": "video/mp4"}  # the first bytes
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"><title>{{ title }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; display: block; overflow-x: auto; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #ddd; }
figure { display: inline-block; margin: 0.5rem 0.75rem 0.5rem 0; } img, video { max-width: 100%; height: auto; }
blockquote { color: #666; font-style: italic; margin: 0; } .label { background: #f3e9d2; padding: 0.25rem 0.5rem; }
h2 { margin-top: 2.5rem; } pre { white-space: pre-wrap; } figcaption, footer { font-size: 0.85rem; }
video { width: 24rem; }
</style></head><body><h1>{{ title }}</h1>{% if label %}<p><span class="label">{{ label }}</span></p>{% endif %}
{% for heading, blocks in sections.items() %}
<section id="{{ heading }}">{% if heading %}<h2>{{ heading }}</h2>{% endif %}
{% for block in blocks %}{{ html(block) }}
{% endfor %}</section>{% endfor %}
<footer>{{ footer }}</footer></body></html>
"""
TEMPLATE = jinja2.Environment(autoescape=True).from_string(PAGE)
ACTIVE = re.compile(r"[\\`*\[\]<|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|^>|^[#+=~-](?=[\s#=~-]|$)")  # marks of Markdown
READER = MarkdownIt("commonmark", {"html": False}).enable("table")


class Strong(str):
    """A paragraph in bold."""


class Quote(str):
    """A paragraph in somebody else's words."""


class Folded(str):
    """Preformatted text that opens on a click."""


@dataclass(frozen=True)
class Media:
    """A PNG, a JPEG or an MP4, from a path or from bytes. alt: what it shows; it also stands below it."""

    data: str | Path | bytes
    alt: str


def page(title: str, sections: Sections, *, label: str = "", footer: str = "") -> str:
    """One HTML file that fetches nothing; label stands below the title. Raises InputError for Media of another kind."""
    html = lambda block: _html(block, sections)
    return TEMPLATE.render(title=title, sections=sections, label=label, footer=footer, html=html)


def markdown(title: str, sections: Sections, *, label: str = "", footer: str = "", folder: str | Path = ".") -> str:
    """The same as Markdown that lies in `folder`, with links to media."""
    parts = [f"# {_flat(title)}", f"**{_flat(label)}**" if label else ""]
    for heading, blocks in sections.items():
        parts += [f"## {_flat(heading)}" if heading else "", *(_markdown(block, sections, folder) for block in blocks)]
    return "\n\n".join(filter(None, [*parts, _flat(footer)])) + "\n"


def _html(block: Any, headings: Iterable[str]) -> Markup:
    match block:
        case Markup():
            return block
        case Folded():
            return Markup("<details><summary>details</summary><pre>{}</pre></details>").format(block)
        case Media(data, alt):
            content = data if isinstance(data, bytes) else Path(data).read_bytes()
            kind = next((kind for magic, kind in MAGIC.items() if re.match(magic, content, re.DOTALL)), None)
            if kind is None:
                raise InputError(f"{alt}: no PNG, JPEG or MP4, whatever its name says.")
            url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
            video = '<video src="{0}" aria-label="{1}" controls loop muted autoplay playsinline></video>'
            shown = video if kind == "video/mp4" else '<img src="{0}" alt="{1}">'
            return Markup(f"<figure>{shown}<figcaption>{{1}}</figcaption></figure>").format(url, alt)
    return Markup(READER.render(_markdown(block, headings)))


def _markdown(block: Any, headings: Iterable[str], folder: str | Path = ".") -> str:
    match block:
        case list():
            return "\n".join(f"- {_flat(line)}" for line in block)
        case pd.DataFrame():
            rows = [[_cell(v) for v in row] for row in block.itertuples(index=False, name=None)]
            rows = [[f"[{row[0]}](#{quote(row[0])})" if row[0] in headings else row[0], *row[1:]] for row in rows]
            lines = [map(_flat, block.columns), ["---"] * block.shape[1], *rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Media(data, alt):
            return f"![{_flat(alt)}]({quote(Path(os.path.relpath(str(data), str(folder))).as_posix())})"
    form = "**{}**" if isinstance(block, Strong) else "> {}" if isinstance(block, Quote) else "{}"
    return form.format(_flat(block))


def _cell(value: Any) -> str:
    """Floats with four digits; what is missing is empty."""
    text = f"{value:.4g}" if isinstance(value, float) else value
    return "" if value is None or value is pd.NA or value != value else _flat(text)


def _flat(text: Any) -> str:
    """One line in which nothing is Markdown or HTML."""
    line = ACTIVE.sub(r"\\\g<0>", " ".join(str(text).split()))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
