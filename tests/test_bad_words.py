"""Odd words after every flag and argument of the command: each is refused in one plain line before a notebook or a model
starts and before anything is written, or it is right, and the table says why.

`pytest tests/test_bad_words.py -s` prints how many were refused, how many ended otherwise, and how many were accepted.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import typer
from PIL import Image

from svdlab.__main__ import app, main
from svdlab.errors import InputError
from svdlab.measure import calibrate
from svdlab.probes import find
from svdlab.study import notebooks
from svdlab.study.plans import CONDITIONS

WORDS = ["nan", ".nan", "inf", "-1", "0", "true", "null", "text", "", " ", "[]", "{}", "1e30"]
WORDS += ["9" * 30, "-1.5", "0x10", "\u0661"]
WORDS += ["a\0b", "x" * 300, "..", ".", "pipe", "/dev/null/x", "~no-such-user/x", "[1, 2", "=cmd|'/C calc'!A0", "a\nb"]
FEWER = ["nan", ".nan", "-1", "0", "true", "null", "text", "", "{}", "9" * 30]
FEWER += ["a\0b", "x" * 300, "[1, 2", "\x1b[31m", "\udcff"]
WORDS += ["\x1b[31m", "\u202egpj", "\udcff", "${HOME}", "-", "*", "!!python/object/apply:os.system [true]", "[" * 3000]

# What has no weights here: whatever comes to be loaded has passed every check of its words.
GONE, STARTED = "no/such", ("no/such", "needs the kernel")
TOUR, TRACE = "00-tour", "02-denoising-trace"
MODEL = ["--checkpoint", GONE]
STUDY, GRID = ["--grid", "grid.yaml", *MODEL], ["--grid", "points.yaml"]
# Command and parameter -> the other words that the command then needs, "@" where the odd word stands.
TABLE: dict[str, list[str]] = {
    "report OF": ["@"],  # before commands that leave folders of such names
    "demo --out": ["@"],
    "notebook NAME": ["@"],
    "notebook --parameter": [TRACE, "-p", "@", "1"],
    "notebook --grid": [TRACE, "--grid", "@"],
    "notebook --jobs": [TRACE, *GRID, "--jobs", "@"],
    "notebook --out": [TRACE, "--out", "@"],
    "notebooks TO": ["@"],
    "sweep --grid": ["--grid", "@", "--out", "out", *MODEL],
    "sweep --out": [*STUDY, "--out", "@"],
    "sweep --checkpoint": ["--grid", "grid.yaml", "--out", "out", "--checkpoint", "@"],
    "sweep --image": [*STUDY, "--out", "out", "--image", "@"],
    "sweep --batch-size": [*STUDY, "--out", "out", "--batch-size", "@"],
    "measure VIDEOS": ["@", "--out", "out"],
    "measure --image": ["study/figure.png", "--out", "out", "--image", "@"],
    "measure --out": ["none.mp4", "--out", "@"],
    "sweep --threads": [*STUDY, "--out", "out", "--threads", "@"],
    "probe NAME": ["@", *MODEL],
    "probe --checkpoint": ["stillness", "--checkpoint", "@"],
    "probe --out": ["stillness", "--out", "@", *MODEL],
    "probe --images": ["stillness", "--images", "@", *MODEL],
    "probe --seeds": ["stillness", "--seeds", "@", *MODEL],
    "probe --quick": ["stillness", "--quick=@", *MODEL],
    "probe --parameter": ["stillness", "-p", "@", "1", *MODEL],
    "probe --manifest": ["bias", "--manifest", "@", *MODEL],
    "report --out": ["study", "--out", "@"],
    "convert FILE": ["@", "new"],
    "convert TO": ["no-such.safetensors", "@"],
    "convert --num-frames": ["no-such.safetensors", "new", "--num-frames", "@"],
    "convert --configs": ["no-such.safetensors", "new", "--configs", "@"],
    "doctor --checkpoint": ["--offline", "--checkpoint", "@"],
    "doctor --run": ["--offline", "--run", "@"],
    "doctor --parameter": ["--run", GONE, "-p", "@", "1"],
    "doctor --offline": ["--offline=@"],
    "doctor --details": ["--offline", "--details=@"],
    "ledger check OF": ["@"],
    "ledger export OF": ["@", "new"],
    "ledger export TO": ["study", "@"],
    "organism verify CHECKPOINT": ["@"],
    "organism verify --quick": ["--quick=@", GONE],
    "organism verify --out": [GONE, "--out", "@"],
    "motion calibrate --quick": ["--quick=@"],
    "motion calibrate --out": ["--out", "@"],
}
BIAS = ["alpha", "margins", "measures"]
LOADED = ["dtype", "offload", "device"]
# The values of -p, for every key that svdlab knows.
VALUES = {f"notebook -p {key}": [TRACE, "-p", key, "@"] for key in notebooks.parameters_of(TRACE)}
VALUES |= {f"doctor -p {key}": ["--run", GONE, "-p", key, "@"] for key in (*CONDITIONS, *LOADED)}
VALUES |= {f"probe -p {key}": ["stillness", "-p", key, "@", *MODEL] for key in {*CONDITIONS, *find("stillness").axes}}
VALUES |= {f"probe bias -p {key}": ["bias", "-p", key, "@", "--manifest", "pairs/manifest.csv", *MODEL] for key in BIAS}

FILE = "a name that a file can have"
# Parameter (a pattern) -> words (a pattern) that it takes, and why that is right.
RIGHT = [
    (r".*--out|ledger export TO|notebooks TO", r"(?!/dev/null|~no-such|pipe).+", FILE),
    (r"notebook -p (checkpoint|image)", r".*", "a text, as the notebook declares"),
    (r"notebook -p seeds", r".*", "a list of one, as the notebook declares"),
    (r"notebook -p .*", r"[-+.]?(\d|nan).*", "a number, as the notebook declares: its cells check it"),
    (r"measure VIDEOS", r"\.\.?", "a folder with images, the frames of a clip"),
    (r"probe --images", r"\.\.?", "a folder with an image"),
    (r"(doctor|probe) -p .*", r"null|\s*", "nothing: the default"),
    (r"probe bias -p (measures|margins)", r"null|\s*|{}", "nothing: the default"),
    (r"(doctor|probe) -p (motion_bucket_id|noise_aug_strength|min_guidance_scale)", "0", "zero is allowed"),
    (r"(doctor|probe) -p max_guidance_scale", r"1e30|9+", "guidance has no upper limit"),
]


def parameters(command: Any, name: str = "") -> Iterator[str]:
    """Every parameter of every command, as TABLE names them."""
    for sub, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from parameters(inner, f"{name}{sub} ")
        else:
            for p in inner.params:
                yield f"{name}{sub} {p.opts[0] if p.opts[0].startswith('-') else p.name.upper()}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands need, in which no notebook has a kernel and the calibration does not begin."""
    folder = tmp_path / "here"
    (folder / "notebooks").mkdir(parents=True)
    for name in (TOUR, TRACE):
        book = nbformat.read(notebooks.find(name), 4)
        book.metadata.kernelspec = {"name": "no-such", "display_name": "none", "language": "python"}
        nbformat.write(book, folder / "notebooks" / f"{name}.ipynb")
    (folder / "grid.yaml").write_text("fps: [6]\n")
    (folder / "points.yaml").write_text("num_inference_steps: [1]\n")
    os.mkfifo(folder / "pipe")
    (folder / "study" / "runs").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    Image.fromarray(pixels[0]).save(folder / "study" / "figure.png")
    from svdlab.study.pairs import make_pairs

    make_pairs({"a": pixels[0], "b": pixels[1]}, folder / "pairs", licence="CC0", consent="nobody is shown", kinds=["mirror"])
    monkeypatch.chdir(folder)

    def begin(*_: Any) -> Any:
        raise InputError(f"{GONE}: the calibration would begin.")

    monkeypatch.setattr(calibrate, "held_out", begin)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {os.path.join(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)}


def attempt(words: list[str], folder: Path, capsys: Any) -> str:
    """How a command ended: "refused", "accepted", or what it did wrong."""
    before = files(folder)
    try:
        main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:100]!r}"
    said = capsys.readouterr()
    err = "\n".join(line for line in said.err.split("\n") if "Warning" not in line)
    if not all(c.isprintable() or c in "\n\r" for c in said.out + err) or "Traceback" in err:
        return f"says {said.err[-200:]!r}"
    if code == 0 or any(mark in err for mark in STARTED):
        return "accepted"
    table = words[0] == "doctor" and code == 1 and not err  # its answer is the table
    if code not in (1, 2) or not (table or len(err.strip().splitlines()) == 1):
        return f"exit {code}: {err[-200:]!r}"
    return f"wrote {sorted(made)[:3]}" if (made := files(folder) - before) else "refused"


def test_every_parameter_of_every_command_is_in_the_table() -> None:
    assert sorted(TABLE) == sorted(parameters(typer.main.get_command(app)))


@pytest.mark.slow
def test_odd_words_are_refused_in_one_line_or_right(here: Path, capsys: Any) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for what, needed in (TABLE | VALUES).items():
        command = re.split(r" (?=-|[A-Z]+$)|(?<=probe) bias", what)[0].split()
        for word in WORDS if what in TABLE else FEWER:
            outcome = attempt([*command, *(w.replace("@", word) for w in needed)], here, capsys)
            kind = outcome if outcome in ("refused", "accepted") else "other"
            if outcome == "accepted":
                why = next((why for p, w, why in RIGHT if re.fullmatch(p, what) and re.fullmatch(w, word, re.DOTALL)), "")
                kind = f"accepted: {why}" if why else "accepted without a reason"
            counts[kind] += 1
            if kind.startswith(("other", "accepted without")):
                wrong.append(f"svdlab {what} {word[:40]!r}: {outcome}")
    with capsys.disabled():
        print(f"\n{sum(counts.values())} commands: {dict(counts)}", *wrong, sep="\n")
    assert not wrong, f"{len(wrong)} commands are neither refused nor right"
