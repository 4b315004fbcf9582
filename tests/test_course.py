"""The notebooks as one course, and the pictures that the README shows."""

import itertools
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
GALLERY = ROOT / "results" / "gallery"
LONGEST = {"07": 90, "08": 120, "09": 120}  # s, what was asked of these
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def words(notebook: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown"]


def test_notebooks_are_numbered_without_a_gap_and_each_leads_to_the_next() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(len(NOTEBOOKS))) and len(NOTEBOOKS) > 5
    for one, following in itertools.pairwise(NOTEBOOKS):
        _, _, after = words(one)[-1].partition("**Next:**")
        assert f"({following.name})" in after, f"{one.name} -> {following.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_begins_with_its_question_and_ends_with_the_answer_an_exercise_and_limits(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    title, question, *rest = cells[0].source.split("\n\n")
    assert title.startswith(f"# {path.stem[:2]} · ") and question.startswith("**Question:**") and "?" in question
    assert any("You will see " in part.replace("\n", " ") for part in rest)
    (time,) = (part for part in rest if part.startswith("**Run time:** about "))
    assert int(re.findall(r"(\d+) s on two cores", time)[0]) <= LONGEST.get(path.stem[:2], 300)
    heads = [(i, line[3:]) for i, cell in enumerate(cells) for line in cell.source.splitlines() if line.startswith("## ")]
    places, last = zip(*heads[-3:], strict=True)
    assert last == ("Answer", "Exercise", "Limits") and places[1] == places[2] == len(cells) - 1
    answer = [cell.source for cell in cells[places[0] + 1 : places[1]] if cell.cell_type == "code"]
    assert answer and all("print(" in source for source in answer)  # computed, so that it says what the figures show
    assert "?" in cells[-1].source.partition("## Exercise")[2].partition("## Limits")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_figure_is_saved_and_shown_in_one_line(path: Path) -> None:
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*fig = |\.endswith\(|\.split\(", cell.source, re.MULTILINE), cell.source


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
