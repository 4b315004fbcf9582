"""A page holds what it was given, escaped, and fetches nothing; as HTML and as Markdown."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import Markup, escape
from PIL import Image

from svdlab.errors import InputError
from svdlab.show.page import Folded, Media, Quote, Strong, markdown, page

EVIL = "<img src=x onerror=alert(1)> ![x](.ssh/id_rsa) a|b"


@pytest.fixture
def png(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a sheet.png")
    return tmp_path / "a sheet.png"


def test_every_block_is_there_in_both_forms(png: Path) -> None:
    table = pd.DataFrame({"probe": ["Findings"], "share": [0.123456], "missing": [float("nan")]})
    blocks = ["words", Strong("loud"), Quote("said"), ["one", "two"], table, Media(png, "a sheet of two")]
    folded = [*blocks, Folded("a\n  b"), Markup("<i>own</i>")]
    html = page("Title", {"": ["first"], "Findings": folded}, label="a label", footer="a licence")
    text = markdown("Title", {"": ["first"], "Findings": blocks}, label="a label", footer="a licence", folder=png.parent)
    for word in ["Title", "a label", "first", "Findings", "words", "loud", "said", "0.1235", "a sheet of two", "a licence"]:
        assert word in html and word in text
    assert "nan" not in html + text and '<a href="#Findings">' in html and "a\n  b" in html
    assert "![a sheet of two](a%20sheet.png)" in text and "**loud**" in text and "> said" in text and "- two" in text
    assert "| [Findings](#Findings) | 0.1235 |  |" in text and "<td>0.1235</td>" in html and "<i>own</i>" in html
    assert "<strong>loud</strong>" in html and "<blockquote>" in html and html.count("<li>") == 2


@pytest.mark.parametrize("text", ["1. a", "- a", "# a", "> a", "=== a", "_a_", "*a*", "[a](b)", "`a`", "&lt;", "-0.5", "a_b"])
def test_html_shows_each_text_as_it_is(text: str) -> None:
    assert f"<p>{escape(text)}</p>" in page("t", {"": [text]}) and f"<li>{escape(text)}</li>" in page("t", {"": [[text]]})


@pytest.mark.parametrize("block", [EVIL, Strong(EVIL), Quote(EVIL), [EVIL], pd.DataFrame({EVIL: [EVIL]})])
def test_text_is_never_markup(block: Any) -> None:
    html = page(EVIL, {EVIL: [block, Folded(EVIL)]}, label=EVIL, footer=EVIL)
    assert "<img" not in html
    text = markdown(EVIL, {EVIL: [block]}, label=EVIL, footer=EVIL)
    assert "![" not in text.replace("!\\[", "") and "<img" not in text.replace("\\<img", "")


def test_media_are_embedded_and_only_images_and_videos(png: Path, tmp_path: Path) -> None:
    html = page("t", {"": [Media(png, "x"), Media(png.read_bytes(), EVIL)]})
    assert html.count("data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()) == 2
    assert "<video" in page("t", {"": [Media(b"\0\0\0\x18ftypisom", "clip")]})
    (tmp_path / "key.png").write_text("-----BEGIN PRIVATE KEY-----")
    for data in (tmp_path / "key.png", b"<svg onload='alert(1)'/>"):
        with pytest.raises(InputError, match="no PNG, JPEG or MP4"):
            page("t", {"": [Media(data, "x")]})
