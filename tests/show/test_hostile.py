"""What was recorded is drawn and written as text; no file is written or embedded through a link, and give nothing away."""

import getpass
import json
import os
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from svdlab import show
from svdlab.errors import InputError
from svdlab.measure.files import exported, file_name, printable
from svdlab.show.clips import named
from svdlab.show.figure import Figure, chosen, graphs, images
from svdlab.show.labels import number
from svdlab.show.page import Folded, Media, markdown, page
from svdlab.stats.effects import mean
from tests.show.conftest import texts

FORMULA = r"$\frac{1$ and $x^2$"  # the first of them is no formula that can be drawn
STEERING = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b2Jbell\x07 \u202eright\x00"
PLAIN = "red bell right"
HTML = '"><img src=x onerror=alert(1)>'
RECORDED = [FORMULA, STEERING, HTML, "a\n" * 200, "x" * 300, "100 $ or 200 $", "\\undefined", "日本語 🙂"]
HIDDEN = set("\x1b\x07\x9b\u202e\x00")
FLAT = np.full((2, 32, 32, 3), 90, np.uint8)


def made(recorded: str) -> SimpleNamespace:
    return SimpleNamespace(checkpoint=f"{recorded}/model", label=recorded, licence=recorded)


def table_of(recorded: str) -> pd.DataFrame:
    rows = [dict(stimulus=i, image=f"{recorded} {i}", seed=i, fps=f, x=float(i)) for i in range(4) for f in (6, 8)]
    return pd.DataFrame(rows).assign(checkpoint="a/b", label=recorded, licence=recorded, frames="")


FIGURES: dict[str, Any] = {  # of a recorded text
    "dose_response": lambda t: show.dose_response(table_of(t), x="fps", y="x", by="image", title=t),
    "categories": lambda t: show.dose_response(table_of(t), x="image", y="x"),
    "forest": lambda t: show.forest(
        [mean("k", t.replace("\0", ""), table_of(t), "x", unit="px")], by="what", of=made(t), title=t
    ),
    "heat": lambda t: show.heat(pd.DataFrame([[1.0, 2.0]], index=[t], columns=[t, "b"]), made(t), title=t, key=t, rows=t),
    "sheet": lambda t: show.sheet(table_of(t), rows="image", columns="fps", note="licence", clips=[FLAT] * 8, title=t),
    "filmstrip": lambda t: show.filmstrip({t: FLAT, "b": FLAT}, title=t),
}


@pytest.mark.parametrize("name", FIGURES)
def test_characters_that_no_font_has_are_boxes_without_a_warning(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        fig = FIGURES[name]("微信图片 🙂")
        assert fig._repr_mimebundle_()[0]["image/png"]
        show.save(fig, tmp_path / "figure")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("recorded", [FORMULA, STEERING])
def test_recorded_text_is_drawn_as_text(name: str, recorded: str, tmp_path: Path) -> None:
    fig = FIGURES[name](recorded)
    show.save(fig, tmp_path / "a")  # PNG, PDF and CSV, drawn anew in each: a formula that is none would stop it
    drawn, plain = texts(fig), {FORMULA: FORMULA, STEERING: PLAIN}[recorded]
    assert not HIDDEN & set(drawn) and plain in " ".join(drawn.split())
    said = DisplayFormatter().format(fig)[0]["text/plain"]
    assert not HIDDEN & set(said + fig.footer)


@pytest.mark.parametrize("recorded", RECORDED)
def test_no_recorded_text_stops_a_figure_or_bursts_it(recorded: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks
        fig = FIGURES["filmstrip"](recorded)
        fig.draw_without_rendering()
    assert max(fig.get_size_inches()) < 12


def test_a_file_name_of_another_encoding_is_drawn(tmp_path: Path) -> None:
    fig = show.filmstrip({"caf\udce9": FLAT, "b": FLAT}, title="caf\udce9")
    show.save(fig, tmp_path / "a")
    assert "caf\ufffd" in texts(fig) and pd.read_csv(tmp_path / "a.csv")["clip"][0] == "caf\ufffd"
    assert show.video(FLAT, labels=["caf\udce9"]).alt == "caf\ufffd" and "caf\ufffd" in page("caf\udce9", {"": ["caf\udce9"]})


def test_a_logarithmic_axis_keeps_its_powers() -> None:
    fig, axes = graphs(size=(300, 200), title="$1$")
    axes[0, 0].semilogy([0, 1], [0.01, 1000])
    fig.finish().draw_without_rendering()
    ticks = axes[0, 0].get_yticklabels()
    assert ticks and all(tick.get_parse_math() for tick in ticks) and not fig._suptitle.get_parse_math()


@pytest.mark.parametrize("recorded", RECORDED)
def test_a_video_and_a_page_show_recorded_text_as_text(recorded: str) -> None:
    bundle = DisplayFormatter().format(show.video(FLAT, labels=[recorded], title=recorded))[0]
    folded = Folded(f"Traceback\n{recorded}")
    html = page(recorded, {recorded: [recorded, [recorded], pd.DataFrame({recorded: [recorded]}), folded]}, label=recorded)
    text = markdown(recorded, {recorded: [recorded]}, label=recorded, footer=recorded)
    for shown in (bundle["text/html"], bundle["text/plain"], html, text):
        assert not HIDDEN & set(shown)
    assert "<img" not in html + bundle["text/html"].replace("<img src=x", "") + text.replace("\\<img", "")
    assert "Traceback\n" in html  # preformatted text keeps its lines
    assert 'aria-label="&quot;&gt;&lt;img' in bundle["text/html"] or recorded != HTML


def test_printable_text_is_one_line_without_what_steers_a_terminal() -> None:
    assert printable(STEERING) == PLAIN and printable("\x1b[2J\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\") == "link"
    assert printable("a\r\nb\tc", lines=True) == "a\nb\tc" and printable("\x1b]no end") == "no end"
    assert number(2**60) == str(2**60) and number(12345) == "12345"  # two seeds never get one label


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_planted_link_is_replaced_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    names = [f"a.{end}" for end in ("png", "pdf", "csv", "mp4", "mp4.json")]
    for name in (*names, *(f"{name}.part" for name in names), *(f".{name}.part" for name in names), "strip.png.part"):
        (out / name).symlink_to(secret)
    (out / "a.svg").symlink_to(tmp_path / "not there")  # nothing writes it
    fig = show.filmstrip({"a": FLAT, "b": FLAT})
    show.save(fig, out / "a")
    show.save(show.forest([mean("a", "a", table_of("t"), "x", unit="px")], of=made("t")), out / "a", formats=("csv",))
    show.Video(FLAT, 7, "a", {"seed": 0}).save(out / "a")
    assert secret.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["out", "secret"]
    assert not any((out / name).is_symlink() for name in names) and (out / "a.png.part").is_symlink()
    assert not [p for p in out.iterdir() if p.name.startswith(".part-")]


def test_a_page_embeds_files_and_no_links(tmp_path: Path) -> None:
    study, private = tmp_path / "study", tmp_path / "private"
    for folder in (study, private):
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "a.png")
    (study / "link.png").symlink_to(private / "a.png")
    (study / "loop.png").symlink_to(study / "loop.png")
    (study / "figures").symlink_to(private)
    os.mkfifo(study / "pipe.png")
    assert "data:image/png" in page("t", {"": [Media(study / "a.png", "a")]}, folder=study)
    for name in ("link.png", "loop.png", "figures/a.png", "../private/a.png", "pipe.png", "."):
        with pytest.raises(InputError, match=r"not embedded|only files"):
            page("t", {"": [Media(study / name, "a")]}, folder=study)
    with pytest.raises(InputError, match="only files"):
        page("t", {"": [Media(study / "link.png", "a")]})
    with pytest.raises(InputError, match="not bytes"):
        markdown("t", {"": [Media(b"\x89PNG", "a")]})


# --- what files say ---------------------------------------------------------------------------------------------------


def test_files_name_no_folder_user_or_host(tmp_path: Path, monkeypatch: Any) -> None:
    home = tmp_path / "home" / "lovelace"
    monkeypatch.setenv("HOME", str(home))
    table = table_of("model organism, not SVD").assign(checkpoint=f"{home}/weights/model", image=f"{home}/photos/cat.png")
    table["x"] += table.index
    two = pd.concat([table, table.assign(image=r"C:\Users\lovelace\dog.png")], ignore_index=True)
    show.save(show.dose_response(two, x="fps", y="x", by="image"), tmp_path / "a")
    show.save(show.sheet(two, rows="image", columns="fps", clips=[FLAT] * len(two)), tmp_path / "b")
    strip = show.filmstrip({"a": FLAT, "b": FLAT})
    strip.savefig(tmp_path / "c.svg")
    film = show.video(FLAT).save(tmp_path / "d.mp4")
    show.video({"a": FLAT}, title="t").save(tmp_path / "e")
    show.video(film, title="a file").save(tmp_path / "f.mp4")  # a path is no source, and no label
    show.save(show.filmstrip([str(film), film]), tmp_path / "g")
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".png", ".pdf", ".csv", ".svg", ".mp4"}
    private = [str(tmp_path), str(Path.cwd()), "lovelace", str(home)]
    private += [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5]  # others are words of PDF
    for path in files:
        content = path.read_bytes()
        found = [word for word in private if any(word.encode(code) in content for code in ("utf-8", "utf-16-be"))]
        assert found == [], path.name
    assert set(pd.read_csv(tmp_path / "b.csv")["image"]) == {"cat.png", "dog.png"}
    shown = texts(show.sheet(two, rows="image", columns="fps", clips=[FLAT] * len(two)))
    assert "cat.png" in shown and "photos" not in shown


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("/home/ada/a.png", "a.png"),
        ("~/a/b.png", "b.png"),
        ("~ada/photos/", "photos"),
        (r"C:\Users\ada\a b.png", "a b.png"),
        (r"\\host\share\a.png", "a.png"),
        ("file:///home/ada/a.png", "a.png"),
        ("owner/model", "owner/model"),
        ("px / frame", "px / frame"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        (Path("/home/ada/a.png"), "a.png"),
        (3.5, 3.5),
    ],
)
def test_of_an_absolute_path_only_the_name_is_exported(value: Any, name: Any) -> None:
    assert file_name(value) == name


@pytest.mark.parametrize("name", ["bob", "root", "al"])
@pytest.mark.parametrize("text", ["{}@host: done", "USER={}", "LOGNAME={} x", "user: {}", "cd /home/{} ", "in '/Users/{}'"])
def test_a_name_of_few_letters_or_an_ordinary_one_goes_where_it_is_a_name(name: str, text: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("USER", name)
    assert name not in exported(text.format(name)).lower()
    for word in ("rooted", "et al", "the root of 2", f"{name}-tree"):  # elsewhere it is a word
        assert exported(word) == word


UNSEEN = ["\ufeff=1+1", "\u200b=1+1", "\0=1+1", "\x1b[31m=1+1", "﹦1+1"]  # before or like a sign that begins a formula


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "\t=1+1", "＝1+1", "@SUM(A1)", "-2+3", " +1\r=1", *UNSEEN])
def test_a_csv_holds_no_formula(cell: str, tmp_path: Path) -> None:
    table = pd.DataFrame({cell: [1.0, -2.0], "b": [3.0, 4.0]}, index=[cell, "b"])
    show.save(show.heat(table, title="a", key="b"), tmp_path / "a", formats=["csv"])
    effects = show.forest([mean("a", cell.replace("\0", ""), table_of("t"), "x", unit="px")])
    show.save(effects, tmp_path / "b", formats=("csv",))
    for name in ("a.csv", "b.csv"):
        rows = pd.read_csv(tmp_path / name)
        words = [*rows.columns, *rows.astype(object).to_numpy().ravel()]
        assert not [w for w in words if isinstance(w, str) and w.lstrip().startswith(tuple("=+-@＝＋－＠"))]
    assert pd.read_csv(tmp_path / "a.csv").iloc[1, 1] == -2.0  # a number stays one


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1.5, [0, 1.0], [True], True, "1", "12", [[0, 1]], np.array(1.0), [None], {}, [3], -4, []])
def test_positions_are_whole_numbers_that_are_there(asked: Any) -> None:
    with pytest.raises(InputError):
        chosen(asked, 3, 2, "frame")


def test_positions_come_as_any_whole_numbers() -> None:
    assert chosen(np.int64(-1), 3, 2, "frame") == [2] and chosen(range(2), 3, 2, "frame") == [0, 1]
    assert chosen(np.array([0, 2], np.uint8), 3, 2, "frame") == [0, 2] and chosen(pd.Series([1]), 3, 2, "frame") == [1]
    assert chosen(None, 3, 2, "frame") == [0, 2] and chosen(np.array(1), 3, 2, "frame") == [1]


def test_what_cannot_be_drawn_or_written_is_refused_plainly(tmp_path: Path) -> None:
    fig = show.filmstrip({"a": FLAT, "b": FLAT})
    size = fig.get_size_inches().tolist()
    for wrong in (dict(formats="png"), dict(formats=["svg"]), dict(formats=[])):
        with pytest.raises(InputError):
            show.save(fig, tmp_path / "a", **wrong)
    with pytest.raises(InputError, match="name"):
        show.save(fig, "/")
    assert fig.get_size_inches().tolist() == size and not list(tmp_path.iterdir())
    table = table_of("t")
    lists = table.assign(both=[[1, 2]] * len(table))
    for call in (
        lambda: show.dose_response(lists, x="both", y="x"),
        lambda: show.dose_response(lists, x="fps", y="both"),
        lambda: show.dose_response(lists, x="fps", y="x", by="both"),
        lambda: show.sheet(lists, rows="both", columns="fps", clips=[FLAT] * 8),
        lambda: show.sheet(table, rows="seed", columns="fps", clips=[FLAT]),
        lambda: show.forest(pd.DataFrame({"label": ["a"]})),
        lambda: show.heat(pd.DataFrame({"a": ["text"]}), title="a", key="b"),
        lambda: show.heat(pd.DataFrame({"a": [np.inf]}), title="a", key="b"),
        lambda: show.xt_slice(FLAT, row=[1, 2]),
        lambda: show.video([FLAT], fps=0),
        lambda: show.flow(np.full((1, 16, 16, 2), np.nan)),
        lambda: images(size=(10**6, 10), title=""),
        lambda: page("t", {"a": "text"}),
        lambda: page("t", {"a": [3.5]}),
        lambda: show.about(3.5),
    ):
        with pytest.raises(InputError):
            call()


def test_numbers_beyond_an_axis_are_left_out_and_counted() -> None:
    table = table_of("t")
    table.loc[[0, 3], "x"] = [np.inf, -1e305]
    fig = show.dose_response(table, x="fps", y="x")
    fig.draw_without_rendering()
    assert "2 runs without a number left out" in fig.footer and len(fig.data) == 6
    show.dose_response(table.assign(x=table.index > 3), x="fps", y="x").draw_without_rendering()  # truth values are 0 and 1
    show.heat(pd.DataFrame({"a": [1.0, np.inf], "b": [1e308, -1e308]}), title="a", key="b").draw_without_rendering()


def test_any_kind_of_clip_is_shown(tmp_path: Path) -> None:
    import torch

    film = show.Video(FLAT, 7, "a").save(tmp_path / "fps-7.5")
    assert film.name == "fps-7.5.mp4"
    tensor = torch.full((2, 32, 32, 3), 0.5, dtype=torch.bfloat16, requires_grad=True)
    pictures = [Image.new("RGB", (32, 32), "red")] * 3
    for clip, count in (
        (tensor, 2),
        (pictures, 3),
        (str(film), 2),
        (film, 2),
        (list(FLAT / 255), 2),
    ):
        assert len(show.video(clip).frames) == count and isinstance(show.filmstrip(clip), Figure)
        assert isinstance(show.xt_slice(clip), Figure)
    assert len(show.video({"a": FLAT}.values()).frames) == 2 and len(show.filmstrip(iter([FLAT, FLAT])).data) == 4
    assert len(show.filmstrip([film, tensor, pictures]).data) == 6
    rows = table_of("t").assign(frames=str(film), image="a")[:2]
    assert named(rows)[2] == named({"a": str(film), "b": film})[2][:1] * 2  # paths stay what they are for who draws them again
    with pytest.raises(InputError, match="Clips"):
        show.filmstrip(rows, given=True)
    assert json.loads(show.filmstrip(film).data.to_json()) and show.filmstrip(film).footer == ""
