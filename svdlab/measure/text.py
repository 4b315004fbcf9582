"""Signs with a known text, how much of each letter is still there, and what optical character recognition (OCR) reads.

    >>> plate = make_plate("OPEN", (256, 256), height=40)
    >>> correlation(plate, plate.image[None]).groupby("frame").correlation.mean()
    >>> read_clip(plate.image[None], "OPEN").error_rate          # needs svdlab[ocr]

A plate is followed from frame to frame as one body that shifts and changes its size. Then each letter is compared with its own
image by normalised correlation: 1 is the letter, whatever its contrast; about 0.3 to 0.5 some other letter; 0 is nothing. OCR
is rapidocr, whose models are inside its wheel. That it cannot read a text does not prove that nobody can, so a clean copy has
to be read first.
"""

import math
import os
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from svdlab import errors
from svdlab.errors import InputError, MissingExtraError, takes, whole
from svdlab.measure.video import FRAMES, IMAGE, SIZE, as_image

FONTS = {"sans": "DejaVuSans-Bold.ttf", "serif": "DejaVuSerif.ttf", "mono": "DejaVuSansMono.ttf"}  # free; matplotlib's
LEAST_HEIGHT = 5  # px: below, no font can draw the five strokes of an E
DROPPED = 0.5  # a letter that correlates less with itself is counted as gone
REACH = 0.08  # of the frame's shorter side: how far a plate is looked for from one frame to the next
ZOOMS = (0.97, 0.985, 1.0, 1.015, 1.03)  # how its size may change from one frame to the next
FAINT = 1 / 255  # standard deviation of grey: less is an empty place, not a letter
WORKING_SIDE = 128  # px: images with a shorter side than that are enlarged by a whole factor before they are read
LARGEST_SIDE = 960  # px: longer ones are shrunk to that to find where text is; it is read at full size
COLUMNS = ["frame", "letter", "char", "correlation", "contrast", "dropped", "dx", "dy", "scale"]  # of `correlation`

Pose = tuple[float, float, float]  # dx, dy in px and a factor of size: how a plate moved from where it was drawn


@dataclass(frozen=True)
class Plate:
    """An image with a text at a known place.

    image: float32 "h w 3" in [0, 1]. boxes: int "n 4", left, top, right, bottom of each letter's cell in px, by `text` without
    its blanks. height: of a capital, px. contrast: Michelson, of text and panel. panel: its four sides in px.
    """

    image: np.ndarray
    text: str
    boxes: np.ndarray
    height: int
    font: str
    contrast: float
    panel: tuple[int, int, int, int]

    @property
    def letters(self) -> str:
        return self.text.replace(" ", "")


@takes(
    text=errors.text,
    shape=SIZE,
    height=partial(whole, least=LEAST_HEIGHT),
    font=partial(errors.one_of, options=FONTS),
    contrast=partial(errors.number, above=0, most=1),
)
def make_plate(
    text: str, shape: tuple[int, int], *, height: int, font: str = "sans", contrast: float = 0.9, background: Any = None
) -> Plate:
    """A sign with one line of dark capitals on a light panel, in the middle of the image.

    >>> make_plate("EXIT", (64, 64), height=12, font="serif", contrast=0.5).letters
    'EXIT'

    shape: "h w" of the image, px. height: of a capital, px; at least 5. font: of FONTS. contrast: Michelson, (light - dark) /
    (light + dark) about mid grey, above 0, at most 1. background: "h w 3" in [0, 1]; None for mid grey.
    Raises InputError for a value outside its range, or a text that does not fit.
    """
    h, w = shape
    text = unicodedata.normalize("NFC", text)  # an accent and its letter are one
    if not text.isprintable() or not text.strip() or height > h:
        raise InputError(f"text={text[:40]!r}, height={height}: give a line of letters, less high than the image's {h} px.")
    image = np.full((h, w, 3), 0.5, np.float32) if background is None else as_image(background, shape).copy()
    face = _face(font, height)
    margin = max(2, round(height * 0.5))
    panel_w, panel_h = math.ceil(face.getlength(text)) + 2 * margin, height + 2 * margin
    if panel_w > w or panel_h > h:
        need = f"{text!r} in {font} capitals of {height} px takes {panel_w}x{panel_h} px"
        raise InputError(f"{need}, the image has {w}x{h}: take a shorter text or a smaller height.")
    left, top = (w - panel_w) // 2, (h - panel_h) // 2
    ink = Image.new("L", (panel_w, panel_h), 0)
    ImageDraw.Draw(ink).text((margin, margin + height), text, font=face, fill=255, anchor="ls")
    alpha = np.asarray(ink, np.float32)[..., None] / 255
    dark, light = 0.5 * (1 - contrast), 0.5 * (1 + contrast)
    image[top : top + panel_h, left : left + panel_w] = light * (1 - alpha) + dark * alpha
    ends = [left + margin + face.getlength(text[:i]) for i in range(len(text) + 1)]
    upper, lower = top + margin - 1, top + margin + height + 1
    cells = [(math.floor(ends[i]), upper, math.ceil(ends[i + 1]), lower) for i in range(len(text)) if text[i] != " "]
    for char, (x0, y0, x1, y1) in zip(text.replace(" ", ""), cells, strict=True):
        if x1 - x0 < 2 or image[y0:y1, x0:x1].std() < FAINT:
            raise InputError(f"text={text[:40]!r}, contrast={contrast:g}: {char!r} shows nothing in a place of its own.")
    panel = (left, top, left + panel_w, top + panel_h)
    return Plate(image, text, np.array(cells), height, font, contrast, panel)


@takes(plate=errors.kind(Plate), frames=FRAMES)
def correlation(plate: Plate, frames: Any) -> pd.DataFrame:
    """How much of each letter each frame still shows: a row per frame and letter.

    >>> table = correlation(make_plate("EXIT", (64, 64), height=12), clip.frames)
    >>> table.groupby("frame").dropped.sum()             # letters gone, by frame

    Columns: `frame`, `letter` (its place in the text), `char`; `correlation` with its own image, -1 to 1 (0 where the place is
    empty); `contrast` left of it, 1 for all; `dropped`: correlation below 0.5; `dx`, `dy`, `scale`: where the plate was found,
    px from where it was drawn and factor of size. Raises InputError for frames that cannot be used or of another size.
    """
    as_image(frames[0], plate.image.shape, name="frames[0]")
    own, reach = cv2.cvtColor(plate.image, cv2.COLOR_RGB2GRAY), max(1, round(0.12 * plate.height))
    pose, rows = (0.0, 0.0, 1.0), []
    for number, frame in enumerate(frames):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        pose = _follow(own, grey, plate.panel, pose)
        back = _brought_back(grey, pose)
        for i, (char, (left, top, right, bottom)) in enumerate(zip(plate.letters, plate.boxes.tolist(), strict=True)):
            letter, there = np.ascontiguousarray(own[top:bottom, left:right]), back[top:bottom, left:right].std()
            found = 0.0 if there < FAINT else float(np.clip(_match(back, letter, left, top, reach).max(), -1, 1))
            rows.append((number, i, char, found, float(there / letter.std()), found < DROPPED, *pose))
    return pd.DataFrame(rows, columns=COLUMNS)


def _follow(own: np.ndarray, grey: np.ndarray, panel: tuple[int, int, int, int], last: Pose) -> Pose:
    """Where the panel of the plate is in a frame: dx, dy, scale about the panel's centre, near where it was last."""
    left, top, right, bottom = panel
    template = own[top:bottom, left:right]
    reach = max(2, round(REACH * min(own.shape)))
    centre = np.array([(left + right - 1) / 2, (top + bottom - 1) / 2])
    best, pose = -math.inf, last
    for zoom in ZOOMS:
        scale = last[2] * zoom
        # The frame is brought back by the pose to be tried, with room around it to search in.
        straight = _brought_back(grey, (last[0], last[1], scale), centre)
        found = _match(straight, template, left, top, reach)
        y, x = (int(i) for i in np.unravel_index(int(found.argmax()), found.shape))
        score = float(found[y, x]) - 1e-3 * (zoom != 1)  # of equals, the one that did not change
        if score > best:
            best = score
            step_x, step_y = _peak(found[y], x) - reach, _peak(found[:, x], y) - reach
            pose = (last[0] + step_x * scale, last[1] + step_y * scale, scale)
    return pose if best > 0.2 else last


def _match(grey: np.ndarray, template: np.ndarray, left: int, top: int, reach: int) -> np.ndarray:
    """Normalised correlation of a template with an image at its place and up to `reach` px around it."""
    (h, w), padded = template.shape, cv2.copyMakeBorder(grey, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    window = np.ascontiguousarray(padded[top : top + h + 2 * reach, left : left + w + 2 * reach])
    return np.nan_to_num(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED), posinf=0.0, neginf=0.0)


def _peak(line: np.ndarray, at: int) -> float:
    """The top of a parabola through a maximum and its neighbours."""
    if not 0 < at < len(line) - 1:
        return float(at)
    a, b, c = (float(v) for v in line[at - 1 : at + 2])
    bend = a - 2 * b + c
    return at + (0.5 * (a - c) / bend if bend < 0 else 0.0)


def _brought_back(grey: np.ndarray, pose: Pose, centre: np.ndarray | None = None) -> np.ndarray:
    """A frame "h w" resampled so that a body moved by `pose` lies where it was drawn."""
    dx, dy, scale = pose
    middle = (np.array(grey.shape[::-1]) - 1) / 2 if centre is None else centre
    shift = middle * (1 - scale) + (dx, dy)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grey, matrix, grey.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=64)
def _face(font: str, height: int) -> ImageFont.FreeTypeFont:
    """The font at the size at which its capital H is nearest to `height` px high."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[font]
    top, bottom = ImageFont.truetype(str(path), 1000).getbbox("H", anchor="ls")[1::2]
    return ImageFont.truetype(str(path), max(4, round(1000 * height / (bottom - top))))


@takes(image=IMAGE)
def read(image: Any) -> str:
    """All text in one image "h w 3" in [0, 1], lines from top to bottom joined by blanks; "" for none.

    >>> read(make_plate("OPEN", (256, 256), height=40).image)
    'OPEN'

    Raises MissingExtraError without rapidocr.
    """
    pixels: Any = (image * 255 + 0.5).astype(np.uint8)
    factor = max(1, -(-WORKING_SIDE // min(pixels.shape[:2])))
    if factor > 1:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    # Given each time: rapidocr keeps what one call switched off for all calls after it.
    found = engine()(pixels[..., ::-1], use_det=True, use_cls=False, use_rec=True)
    lines = zip(found.txts or (), found.boxes if found.txts else (), strict=True)
    return " ".join(text for text, _ in sorted(lines, key=lambda line: line[1][:, 1].min()))


@takes(frames=FRAMES, truth=errors.text)
def read_clip(frames: Any, truth: str) -> pd.DataFrame:
    """A row per frame: `frame`, `text`, and `error_rate` against the truth.

    >>> read_clip(clip.frames, "OPEN").error_rate.mean()
    """
    found = pd.DataFrame({"text": [read(frame) for frame in frames]}).rename_axis("frame").reset_index()
    return found.assign(error_rate=[error_rate(truth, text) for text in found.text])


@takes(truth=errors.text, text=errors.LABEL)
def error_rate(truth: str, text: str) -> float:
    """Character error rate: insertions, deletions and substitutions (Levenshtein) per character of the truth, at most 1.

    >>> error_rate("OPEN", "0 pen")                              # blanks and case do not count
    0.25
    """
    one, two = ("".join(line.split()).upper() for line in (truth, text))
    return min(1.0, _extra("rapidfuzz.distance").Levenshtein.distance(one, two) / max(1, len(one)))


@cache
def engine() -> Any:
    """The OCR engine, loaded once per process."""
    return _extra("rapidocr").RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # nothing here is upside down
            "Det.limit_type": "max",  # its default enlarges every image to 736 px, at six times the cost
            "Det.limit_side_len": LARGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or -1,
        }
    )


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError("text cannot be read without rapidocr and rapidfuzz: pip install 'svdlab[ocr]'.") from error
