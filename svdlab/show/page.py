"""A study, a limitations card or a bias report as one HTML file or as Markdown, from the same sections.

>>> sections = {"Findings": [Strong("Nothing moves."), pd.DataFrame({"fps": [7]})]}
>>> html = page("A study", sections, label="model organism, not SVD", footer="Licence: Apache-2.0")
>>> print(markdown("A study", sections).splitlines()[4])
**Nothing moves.**

Sections map a heading ("" for none) to blocks: a str (a paragraph; also Strong and Quote), a list of str (bullets), a
DataFrame (a first cell that is a heading links to it) or Media; in HTML also Folded and markupsafe's Markup. Text is escaped,
and has lost its control characters and colours of terminals. A file is embedded only if it is one, not a link to one.
"""

import base64
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from svdlab import errors
from svdlab.errors import InputError, OutputError, shown, takes
from svdlab.measure.files import exported, printable
from svdlab.show.figure import Figure
from svdlab.show.labels import WORDS

Sections = Mapping[str, Iterable[Any]]
MAGIC = {rb"\x89PNG\r\n\x1a\n": "image/png", rb"\xff\xd8\xff": "image/jpeg", rb"....ftyp": "video/mp4"}  # the first bytes
LARGEST = 1 << 28  # bytes of a file that is embedded
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


def SECTIONS(name: str, value: Any) -> dict[str, tuple[Any, ...]]:
    """The kind of a page's sections."""
    if not isinstance(value, Mapping) or not all(isinstance(heading, str) for heading in value):
        raise InputError(f"{name}={shown(value)}: give a dict from each heading to its blocks.")
    return {h: errors.several(f"{name}[{shown(h)}]", blocks, _block, least=0) for h, blocks in value.items()}


def _block(name: str, value: Any) -> Any:
    """One of the blocks that the module's docstring lists."""
    if not isinstance(value, (str, list, pd.DataFrame, Media)):
        raise InputError(f"{name} holds {shown(value)}: give texts, lists of texts, DataFrames and Media.")
    return value


@takes(title=WORDS, sections=SECTIONS, label=WORDS, footer=WORDS, folder=errors.path)
def page(title: str, sections: Sections, *, label: str = "", footer: str = "", folder: str | Path | None = None) -> str:
    """One HTML file that fetches nothing; label stands below the title.

    folder: where all media lie, whatever links there are; None for any place. Raises InputError for Media of another kind or
    from another place, OutputError for a file that cannot be read.
    """
    html = lambda block: _html(block, sections, folder)
    headings = {printable(heading): blocks for heading, blocks in sections.items()}
    return str(exported(TEMPLATE.render(title=title, sections=headings, label=label, footer=footer, html=html)))


@takes(title=WORDS, sections=SECTIONS, label=WORDS, footer=WORDS, folder=errors.path)
def markdown(title: str, sections: Sections, *, label: str = "", footer: str = "", folder: str | Path = ".") -> str:
    """The same as Markdown that lies in `folder`, with links to media."""
    parts = [f"# {_flat(title)}", f"**{_flat(label)}**" if label else ""]
    for heading, blocks in sections.items():
        parts += [f"## {_flat(heading)}" if heading else "", *(_markdown(block, sections, folder) for block in blocks)]
    return "\n\n".join(filter(None, [*parts, _flat(footer)])) + "\n"


def blocks(*parts: Any) -> str:
    """The same blocks, and figures, as HTML without a page around them: for a notebook's cell."""
    return "\n".join(_html(part, (), None) for part in parts)


def _read(path: str | Path, alt: str, folder: str | Path | None) -> bytes:
    """The bytes of a file that is no link, and that lies in the folder, if one is given."""
    path = errors.path(alt, path)
    if folder is not None and not path.parent.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f"{alt}: {path.name} lies outside {Path(folder).name}, or a link leads out of it: it is not embedded."
        )
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a writer
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
                raise InputError(f"{alt}: {path.name} is no file of at most {LARGEST >> 20} MiB: it is not embedded.")
            return file.read()
    except OSError as error:
        if path.is_symlink():
            raise InputError(f"{alt}: {path.name} is a link: only files are embedded.") from error
        raise OutputError(f"{alt}: {path.name} cannot be read: {error.strerror or error}.") from error


def _html(block: Any, headings: Iterable[str], folder: str | Path | None) -> Markup:
    match block:
        case Markup():
            return block
        case Folded():
            return Markup("<details><summary>details</summary><pre>{}</pre></details>").format(printable(block, lines=True))
        case Figure():
            bundle, facts = block._repr_mimebundle_()
            image = '<img src="data:image/png;base64,{}" alt="{}" width="{}" style="max-width: 100%; height: auto">'
            return Markup(image).format(bundle["image/png"], facts["image/png"]["alt"], facts["image/png"]["width"])
        case Media(data, alt):
            alt = printable(alt)
            content = data if isinstance(data, bytes) else _read(data, alt, folder)
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
        case Media(bytes(), alt):
            raise InputError(f"{printable(alt)}: Markdown links to files: give a path, not bytes.")
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
    line = ACTIVE.sub(r"\\\g<0>", exported(printable(text)))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
