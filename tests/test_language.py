"""No text that a user reads has a word that CONTRIBUTING.md rules out: messages, docstrings, help, figures, pages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]

# What is ruled out, and what stands in its place.
RULED_OUT = {
    r"pictures?|pictured": "image",
    r"films?|filmed|filming": "video, clip",
    r"less (?:the|their|its|that of|those|what)": "minus",
    r"(?:cannot|can not|can't|nothing can|could not) tell": "inconclusive, cannot be measured",
    r"told|spoken|said|aloud": "reported, labelled, computed, given",
    r"speaks?|speaking": "reports, names",
    r"held against|holds? [\w ]{1,30} against": "validated against, compared with",
    r"none within": "equivalent within",
    r"px (?:a|per) (?:frame|second)": "px/frame, px/s",
    r"bars?": "threshold, stripe",
    r"rulers?|yardsticks?": "instrument, ground truth",
    r"twins?": "replica",
    r"trembl\w+|unrest": "jitter",
    r"noises": "noise, seeds",
    r"rooms": "modules",
}
# Where such a word is the right one.
ALLOWED = {
    r"film grain": "the name of that noise",
    r"Espresso Bar": "the name of a place, whose photograph is used",
    r"(?:progress|error|colou?r) ?bars?|bar charts?|upright bars": "parts of a figure, of a grating",
    r"[\"']bars[\"']|^bars$": "the value of `kind=` that draws a bar chart",
}
WORDS = {re.compile(words, re.IGNORECASE): instead for words, instead in RULED_OUT.items()}
ANY = re.compile(rf"(?<![\w.-])(?:{'|'.join(RULED_OUT)})(?![\w-])", re.IGNORECASE)
FINE = re.compile("|".join(ALLOWED), re.IGNORECASE)


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, messages, labels and comments of a Python file, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for n, line in enumerate(node.value.splitlines()):
                yield node.lineno + n, line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def texts(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        yield from strings(path.read_text(encoding="utf-8"))
    elif path.suffix == ".ipynb":
        for n, cell in enumerate(nbformat.read(path, 4).cells):
            yield from ((n, line) for line in cell.source.splitlines())
    else:
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


def found(lines: Iterator[tuple[int, str]]) -> list[str]:
    hits = ((n, text, ANY.search(FINE.sub("", text))) for n, text in lines if ANY.search(text))
    better = lambda hit: next(instead for words, instead in WORDS.items() if words.fullmatch(hit))
    return [f"{n}: {hit[0]!r}, better {better(hit[0])}: {text.strip()[:150]}" for n, text, hit in hits if hit]


FILES = [
    *(ROOT / "svdlab").rglob("*.py"),
    *(ROOT / "tools").rglob("*.py"),
    *(ROOT / "notebooks").glob("*.ipynb"),
    *(ROOT / "docs").rglob("*.md"),
    *(
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "NOTICE", "Makefile", "results/gallery/README.md", "svdlab/organism/card.md")
    ),
]


def test_no_text_uses_a_word_that_is_ruled_out() -> None:
    hits = [f"{path.relative_to(ROOT)}:{hit}" for path in sorted(FILES) for hit in found(texts(path))]
    assert not hits, "\n".join(hits)


def test_the_words_are_found_and_their_right_uses_are_not() -> None:
    wrong = ("one picture", "numbers less their mean", "we cannot tell", "it was told", "above the bar", "2 px a frame")
    assert [len(found(iter([(1, text)]))) for text in wrong] == [1] * len(wrong)
    right = "less than 3 runs, a bar chart with error bars, film grain, `picture_of(x)`, tell it apart, px/frame"
    assert found(iter([(1, right)])) == []
