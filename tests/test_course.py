"""The notebooks as one course, and the pictures that the README shows."""

import itertools
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
GALLERY = ROOT / "results" / "gallery"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def words(notebook: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown"]


def test_notebooks_are_numbered_without_a_gap_and_each_leads_to_the_next() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS))) and len(NOTEBOOKS) > 5
    for one, following in itertools.pairwise(NOTEBOOKS):
        _, _, after = words(one)[-1].partition("**Next:**")
        assert f"({following.name})" in after, f"{one.name} -> {following.name}"


def test_links_in_notebooks_and_readme_lead_somewhere() -> None:
    pages = {path: "\n".join(words(path)) for path in NOTEBOOKS}
    pages |= {path: path.read_text() for path in (ROOT / "README.md", GALLERY / "README.md")}
    dead = [
        f"{page.name}: {link}"
        for page, text in pages.items()
        for link in LINK.findall(text)
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert dead == []


def test_the_gallery_is_small_and_says_how_each_picture_is_made() -> None:
    index = (GALLERY / "README.md").read_text()
    pictures = sorted(GALLERY.glob("*.png"))
    assert len(pictures) >= 7 and "make gallery" in index
    for picture in pictures:
        assert picture.stat().st_size < 1e6, picture.name
        _, _, after = index.partition(f"]({picture.name})")
        assert after.strip().startswith("`"), f"no command for {picture.name}"
