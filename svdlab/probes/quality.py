"""What is lost between image and video file: by the autoencoder alone, and by each stage of a clip.

    result = svdlab.probes.run("autoencoder", pipe, "results/limitations")
    result.table.query("kind == 'still'").groupby("content").psnr.mean()
    result = svdlab.probes.run("realism", pipe, "results/limitations")
    result.probe.graphs[0].points(result.clips)          # error by stage and spatial frequency

Autoencoder: images are encoded as the pipeline encodes them (the mode of the posterior) and decoded one by one; gratings of
known frequency show what contrast comes back; panned images are decoded in one piece and in chunks. No clip is generated.
Stills are measured at the checkpoint's size, at half of it, and, where that is small, at twice: one network, other pixels.

Realism: four stages lie between image and video file, the *autoencoder* (the still image encoded and decoded), the *denoiser*
(the clip against that), decoding in *chunks*, and the *mp4*. In frame 0, which shows the image itself, each stage's error is
taken pixel by pixel. Later frames move, so there only what does not depend on motion is compared: power of detail by
frequency, sharpness and flicker. That detail is there does not prove that it is right.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from skimage import data
from skimage.measure import blur_effect

from svdlab.errors import COUNT
from svdlab.measure import fidelity
from svdlab.measure.calibrate import degrade
from svdlab.measure.fidelity import BANDS, EMPTY, FINE, REGIONS, budget, decibels, grating, kept, modulation, power, seams
from svdlab.measure.text import make_plate
from svdlab.pipeline.generate import Clip, ProbePipeline
from svdlab.pipeline.images import sample_image
from svdlab.probes.probe import Check, Example, Graph, Probe, Study, below, graded, most, near
from svdlab.probes.stimuli import (
    PHOTOGRAPHS,
    Stimuli,
    blurred,
    decode,
    encode,
    from_arrays,
    panned,
    still,
    through_autoencoder,
)
from svdlab.stats.effects import Effect, bounded, difference, mean

LEVEL = 255  # errors are in grey levels
DETAIL_MARGIN = 1.0  # dB of fine detail: what a Gaussian blur of about 0.2 px costs

FACES = {"astronaut": (133, 29, 313, 209), "grace_hopper": (117, 81, 417, 381), "camera": (161, 88, 291, 218)}  # boxes, px
TEXTURES = ("brick", "grass", "gravel")
WORDS = {"OPEN": 7, "EXIT": 8, "TAXI": 9}  # heights of the capitals, px
FREQUENCIES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)  # cycles/px
REPORTED = (1 / 16, 1 / 8, 1 / 4)  # of these a finding each; the graph has them all
ANGLES = (0, 30, 60, 90, 120, 150)  # degrees, of the gratings' normals
LARGEST_DOUBLE = 512  # px: checkpoints up to half of that are also measured at twice their size
ERROR_MARGIN = 1.0  # grey levels, rms: an error below that is lost in eight bits
SEAM_MARGIN, SCALE_MARGIN = 0.5, 0.25  # grey levels; of a standard deviation that should be 1
OCTAVES = dict(zip([f"db_{i}" for i in range(1, 6)], ("over 32", "32-16", "16-8", "8-4", "below 4"), strict=True))  # px/cycle
CLIP_FRAMES = 8
PAN = 1 / 64  # of the frame's width, per frame, in the clips that are decoded in chunks

STAGES = ("autoencoder", "denoiser", "chunks", "mp4")
CENTRES = (1 / 64, 1 / 45, 1 / 23, 1 / 11, 1 / 3)  # cycles/px, the middle of each of BANDS but the mean
CRF = 18  # of the mp4, as `svdlab.measure.video.write_preview` writes it
BLUR_MARGIN = 0.03  # of blur_effect, 0 to 1
FLICKER_MARGIN = 0.5  # grey levels from frame to frame: not visible
SPOILT = 4  # images on which the audit tries the instrument itself
BLUR_FRAMES = 5  # of a clip: at full size each takes 0.4 s


# --- the autoencoder alone --------------------------------------------------------------------------------------------


def own_size(table: pd.DataFrame) -> pd.DataFrame:
    """The stills at the checkpoint's own size."""
    return table[table["kind"].eq("still") & table["own_size"].eq(True)]


def by_octave(table: pd.DataFrame) -> pd.DataFrame:
    """Detail kept in each band of the own size, long."""
    own = own_size(table).rename(columns=OCTAVES)
    return own.melt(["stimulus", "content"], list(OCTAVES.values()), var_name="band", value_name="db")


class Autoencoder(Probe):
    """Round trips of images, gratings and panned images."""

    name = "autoencoder"
    card = "The autoencoding part of the model is lossy."
    question = "What does the autoencoder lose by itself: of which content, at which spatial frequencies, between chunks?"
    options = {"decode_chunk_size": 3}
    kinds = {"decode_chunk_size": COUNT}
    n_images = 6
    graphs = (
        Graph("PSNR by content", "content", "psnr", "dB", kind="bars", of=own_size),
        Graph("Contrast of gratings that comes back", "frequency", "contrast_kept", "share", "cycles/px"),
        Graph("Detail kept, dB", "band", "db", "", "px/cycle", "content", of=by_octave),
    )
    worst = "rms"

    def images(self, source: str, quick: bool) -> Stimuli:
        """Faces and textures cropped from free photographs, and whole images of the checkpoint's own domain."""
        faces, textures = [sample_image(n).crop(box) for n, box in FACES.items()], [getattr(data, n)() for n in TEXTURES]
        given = partial(from_arrays, source="scikit-image, matplotlib")
        licences = [PHOTOGRAPHS[n][1] for n in FACES]
        cropped = given([f"face of {n}" for n in FACES], faces, licence=licences, content="faces")
        cropped += given(TEXTURES, textures, licence="CC0", content="texture")
        whole = Stimuli.of(source, self.n_images)
        return cropped + Stimuli(whole.table[["name", "source", "licence"]].assign(content="images"), whole.images)

    def stimuli(self, study: Study) -> Stimuli:
        if "content" not in study.given.table:
            study.given = replace(study.given, table=study.given.table.assign(content="yours"))
        return at_size(study.given, study.height, study.width)

    def plan(self, study: Study) -> pd.DataFrame:
        """No clips."""
        return pd.DataFrame()

    def audit(self, study: Study) -> list[Check]:
        """Clips spoilt by known amounts, and what a blur of 1 px leaves of gratings."""

        def blur(frequency: float) -> float:
            """Contrast kept over the true one, within the border, where a blur sees the image's mirror image."""
            wave = grating((study.height, study.width), frequency)
            inner, soft = (modulation(w[4:-4, 4:-4], frequency) for w in (wave, blurred(wave[None], 1.0)[0]))
            return soft / inner / math.exp(-2 * math.pi**2 * frequency**2)

        blurs = [blur(f) for f in FREQUENCIES[:3]]
        waves = near("a grating blurred by 1 px keeps exp(-2 pi^2 f^2)", blurs, 1, within=0.05, worst=True)
        return [*spoilt(study), waves]

    def measure(self, study: Study) -> pd.DataFrame:
        """Rows of three kinds: "still" (an image at a size), "grating", "clip" (a panned image, in chunks or not)."""
        return pd.DataFrame([*_stills(study), *_gratings(study), *_clips(study)])

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        stills, waves, pans = (clips[clips["kind"] == kind] for kind in ("still", "grating", "clip"))
        own, grey, described = own_size(clips), partial(mean, unit="grey levels"), partial(mean, null=None)
        yield grey("rms", "error of a round trip at the checkpoint's size", own, margin=ERROR_MARGIN)
        for content, group in own.groupby("content", sort=False):
            yield described(f"psnr_{content}", f"PSNR, {content}", group, "psnr", unit="dB")
        yield described("ssim", "SSIM", own, unit="")
        for band, column in zip(BANDS[1:], OCTAVES, strict=True):
            yield mean(column, f"detail kept, {band} cycles/px", own, unit="dB", margin=DETAIL_MARGIN)
        for frequency in REPORTED:
            what, group = f"contrast kept of gratings of {1 / frequency:.3g} px", waves[waves["frequency"] == frequency]
            yield described(f"contrast_{1 / frequency:.0f}px", what, group, "contrast_kept", unit="share")
        for (height, width), group in stills[~stills["own_size"].astype(bool)].groupby(["height", "width"]):
            both, ends = pd.concat([own, group]), (height, own["height"].iloc[0])
            what = f"PSNR at {width:.0f}x{height:.0f} minus that at the checkpoint's size"
            yield difference(f"size_{width:.0f}x{height:.0f}", what, both, "psnr", by="height", unit="dB", levels=ends)
        yield grey("seam_height", "seams between decode chunks", pans, margin=SEAM_MARGIN)
        yield grey("chunk_rms", "change by decoding in chunks", pans, null=None)
        yield grey("flicker", "flicker of a still image", pans, margin=SEAM_MARGIN)
        scale = own.assign(excess=own["latent_rms"] - 1)
        yield mean("scale", "scaled latents' root mean square minus 1", scale, "excess", unit="", margin=SCALE_MARGIN)

    def examples(self, study: Study, clips: pd.DataFrame) -> list[Example]:
        return super().examples(study, own_size(clips))

    def example(self, study: Study, clips: pd.DataFrame, what: str, row: Any) -> Example:
        image = study.stimuli.array(row["stimulus"])[None]
        both = np.concatenate([image, through_autoencoder(study.pipe, image)])
        return Example(f"{what}: {row['stimulus']}, before and after", both)


def losses(image: np.ndarray, through: np.ndarray) -> dict[str, float]:
    """What a round trip did to an image, both "h w 3" in [0, 1]: flat dict.

    `rms` error in grey levels, `psnr` in dB (NaN where equal), `ssim`; `db_1` ... `db_5`: what is kept of the detail of each
    of `svdlab.measure.fidelity.BANDS`, in dB.
    """
    found = fidelity.reconstruction_error(image, through)
    psnr, rms = found["reconstruction_psnr"], LEVEL * math.sqrt(found["reconstruction_mse"])
    octaves = dict(zip(OCTAVES, kept(image, through[None]).db.astype(float), strict=True))
    return {"rms": rms, "psnr": psnr if rms else math.nan, "ssim": found["reconstruction_ssim"], **octaves}


def at_size(given: Stimuli, height: int, width: int) -> Stimuli:
    """All images at a size: those given resized from their originals; text and edges drawn anew, their details as many px."""
    y, x = np.mgrid[:height, :width].astype(float)
    turned = x * math.cos(0.1) + y * math.sin(0.1)  # no edge runs along the pixels
    across = y * math.cos(0.1) - x * math.sin(0.1)
    edges = {
        "slanted edge": turned > width / 2,
        "squares": ((turned // 12) + (across // 12)) % 2,
        "rings": (np.hypot(x - width / 2, y - height / 2) // 6) % 2,
    }
    shown = [np.repeat((0.2 + 0.6 * light)[..., None], 3, -1).astype(np.float32) for light in edges.values()]
    plates = {f"{word} in {h} px": make_plate(word, (height, width), height=h).image for word, h in WORDS.items()}
    drawn = partial(from_arrays, source="drawn by svdlab", licence="Apache-2.0")
    own = drawn(list(edges), shown, content="edges") + drawn(list(plates), plates.values(), content="text")
    return given.prepared(height, width) + own


def _stills(study: Study) -> Iterator[dict[str, Any]]:
    """Every image at the checkpoint's size, at half of it unless that is below 64 px, and at twice where it is small."""
    h, w, factor = study.height, study.width, study.pipe.vae_scale_factor
    half = [(h // 2, w // 2)] if not (h // 2 % factor or w // 2 % factor) and min(h, w) // 2 >= 64 else []
    double = [(2 * h, 2 * w)] if 2 * max(h, w) <= LARGEST_DOUBLE else []
    for height, width in [(h, w), *half, *double]:
        own = (height, width) == (h, w)
        shown = study.stimuli if own else at_size(study.given, height, width)
        for name, content in zip(shown.names, shown.table["content"], strict=True):
            image = shown.array(name)
            latents = encode(study.pipe, image[None])
            row = {"kind": "still", "stimulus": name, "content": content, "height": height, "width": width, "own_size": own}
            row["latent_rms"] = float(latents.float().square().mean().sqrt())
            yield row | losses(image, decode(study.pipe, latents)[0])


def _gratings(study: Study) -> Iterator[dict[str, Any]]:
    for angle, frequency in product(ANGLES, FREQUENCIES):
        wave = grating((study.height, study.width), frequency, angle=angle)
        through = through_autoencoder(study.pipe, wave[None])[0]
        ratio = modulation(through, frequency, angle=angle) / modulation(wave, frequency, angle=angle)
        row = {"kind": "grating", "stimulus": f"grating at {angle} degrees", "content": "gratings"}
        yield row | {"frequency": frequency, "angle": angle, "contrast_kept": ratio}


def _clips(study: Study) -> Iterator[dict[str, Any]]:
    # No more frames at once than the study decodes: memory may not have room for them.
    frames = max(2, min(CLIP_FRAMES, study.conditions.decode_chunk_size or CLIP_FRAMES))
    chunk = min(study.options["decode_chunk_size"], frames - 1)
    given = study.given.table
    whole = list(given.loc[given["content"].eq("images"), "name"]) or study.given.names  # no crops of our own
    for name in whole[:6]:
        image = study.stimuli.array(name)
        latents = encode(study.pipe, panned(image, frames, px=PAN * study.width))
        found = seams(decode(study.pipe, latents), decode(study.pipe, latents, chunk), chunk)
        found |= fidelity.flicker(through_autoencoder(study.pipe, still(image, frames)))
        numbers = {"seam_height": "seam_height", "chunk_rms": "chunk_rms", "flicker": "flicker_brightness"}
        row = {"kind": "clip", "stimulus": name, "content": "panned"}
        yield row | {name: LEVEL * found[key] for name, key in numbers.items()}


# --- every stage of a clip --------------------------------------------------------------------------------------------


def by_frequency(clips: pd.DataFrame) -> pd.DataFrame:
    """Root of the mean squared error in grey levels, by stage and frequency."""
    return _long(LEVEL * np.sqrt(parts(clips).sum(axis=2)[:4, 1:].clip(min=0)), CENTRES, "frequency", "rms")


def by_region(clips: pd.DataFrame) -> pd.DataFrame:
    """Share of all stages' squared error, by stage and region."""
    mse = parts(clips).sum(axis=1)[:4].clip(min=0)
    return _long(mse / mse.sum(), REGIONS, "region", "share")


def parts(clips: pd.DataFrame) -> np.ndarray:
    """The mean budget over clips: mse by stage (and together), band and region, "5 b 3"."""
    return np.mean(clips["parts"].tolist(), axis=0).reshape(len(STAGES) + 1, len(BANDS), len(REGIONS))


def _long(values: np.ndarray, columns: tuple[Any, ...], name: str, value: str) -> pd.DataFrame:
    table = pd.DataFrame(values, index=pd.Index(STAGES, name="stage"), columns=columns)
    return table.melt(var_name=name, value_name=value, ignore_index=False).reset_index()


class Realism(Probe):
    """The error budget of every clip."""

    name = "realism"
    card = "The model does not achieve perfect photorealism."
    question = "How much of the image's detail is lost or changed on the way to the video file, and by which stage?"
    options = {"decode_chunk_size": None}  # by default a third of the study's: eight of 25 frames, as memory often asks for
    kinds = {"decode_chunk_size": COUNT}
    graphs = (
        Graph("Error of frame 0 by frequency", "frequency", "rms", "grey levels", "cycles/px", "stage", of=by_frequency),
        Graph("Share of frame 0's squared error", "region", "share", "", " ", "stage", "bars", by_region),
        Graph("Fine detail against the input", "frame", "detail_by_frame", "dB"),
    )
    worst = "mse_total"

    def measures(self, study: Study) -> tuple[Any, ...]:
        third = max(1, (study.conditions.decode_chunk_size or 1) // 3)
        return ("fidelity", partial(error, decode_chunk_size=study.options["decode_chunk_size"] or third))

    def audit(self, study: Study) -> list[Check]:
        """Clips spoilt by known amounts: nothing, noise, blur, flicker and seams."""
        fine = lambda frames: _fine(frames)[0]
        before, after = study.each(lambda image: fine(image[None])), study.through(fine, partial(still, frames=1))[0]
        there = (before >= EMPTY) & (after >= EMPTY)
        return [*spoilt(study), most("images hold fine detail, also after the autoencoder", there)]

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        """Of a table with `stimulus`, `seed` and the columns of `measures`."""
        decibel, levels = partial(mean, unit="dB", margin=DETAIL_MARGIN), partial(mean, unit="grey levels of 255", null=None)
        what = "fine detail (finer than 8 px/cycle) of the video file against the input"
        yield decibel("detail", what, clips, "detail_total")
        for stage in STAGES:
            yield decibel(f"detail_{stage}", f"of that, the part of the {stage}", clips)
        errors = clips[[f"mse_{s}" for s in STAGES]].clip(lower=0)
        for stage in STAGES:
            part = clips.assign(part=errors[f"mse_{stage}"] / errors.sum(axis=1))
            what = f"{{}} of frame 0's squared error by the {stage}"
            yield bounded(mean(f"error_{stage}", what, part, "part", unit="share", null=None), 0, 1)
        added = clips.assign(
            flicker=clips["flicker_clip"] - clips["flicker_own"], blur=clips["blur_clip"] - clips["blur_input"]
        )
        grey = added.assign(**LEVEL * added[["rms_chunks", "rms_mp4", "seam_height", "flicker"]])
        yield mean("blur", "blur of the clip (0 to 1) minus that of the input", grey, unit="", margin=BLUR_MARGIN)
        yield levels("flicker", "flicker of the clip minus the autoencoder's own", grey, null=0.0, margin=FLICKER_MARGIN)
        yield decibel("fade", "fine detail, last frame against first", clips, "detail_fade")
        yield levels("rms_chunks", "change by decoding in chunks", grey)
        yield levels("seam_height", "height of the seams between chunks", grey)
        yield levels("rms_mp4", "change by the mp4", grey)

    def verdict(self, found: Mapping[str, Effect]) -> str:
        shares = [e for key, e in found.items() if key.startswith("error_")]
        return f"{super().verdict(found)} {max(shares, key=lambda e: e.value).sentence}"


def error(clip: Clip, *, pipe: ProbePipeline, decode_chunk_size: int) -> dict[str, Any]:
    """`stage_measures` of a clip, decoded again in chunks, and written as mp4."""
    image = np.asarray(clip.image, np.float32) / 255
    through = through_autoencoder(pipe, still(image, len(clip.frames)), clip.conditions.decode_chunk_size)
    chunked = decode(pipe, clip.latents, decode_chunk_size)
    return stage_measures(image, (through, clip.frames, chunked, degrade(chunked, crf=CRF)), decode_chunk_size)


def stage_measures(image: np.ndarray, made: Sequence[np.ndarray], chunk: int) -> dict[str, Any]:
    """The budget of one clip of an image "h w 3", a flat dict.

    made: what each of STAGES made of it, "f h w 3" in [0, 1]: the still image's round trip; the clip decoded in one piece, and
    `chunk` frames at a time; the last, read back from its mp4.

    Keys: `mse_<stage>` of frame 0, and `mse_together` for what they do not explain singly (`mse_total` is their sum);
    `detail_<stage>` in dB, the fine detail (finer than 8 px/cycle) of all frames against the stage before, which sum to
    `detail_total`; `detail_fade`, last frame against first; `blur_input`, `blur_clip` (0 sharp to 1 blurred); `flicker_own` of
    the autoencoder's still clip, `flicker_clip`; `rms_chunks`, `rms_mp4` over all frames; `seam_height`; and the lists
    `parts`, mse by stage (and together), band and region, flat, and `detail_by_frame` in dB.
    """
    through, whole, chunked, filed = made
    table = budget({"input": image, **{stage: clip[0] for stage, clip in zip(STAGES, made, strict=True)}})
    levels = [_fine(image[None]), *map(_fine, made)]
    detail = [decibels(float(b.mean()), float(a.mean())) for a, b in pairwise(levels)]
    looked_at = whole[np.unique(np.linspace(0, len(whole) - 1, BLUR_FRAMES).round().astype(int))]
    return {
        **{f"mse_{stage}": float(mse) for stage, mse in table.groupby("stage").mse.sum().items()},
        "mse_total": float(np.square(filed[0].astype(np.float64) - image).mean()),
        **{f"detail_{stage}": db for stage, db in zip(STAGES, detail, strict=True)},
        "detail_total": decibels(float(levels[-1].mean()), float(levels[0].mean())),
        "detail_fade": decibels(float(levels[2][-1]), float(levels[2][0])),
        "blur_input": float(blur_effect(image, channel_axis=-1)),
        "blur_clip": float(np.mean([blur_effect(f, channel_axis=-1) for f in looked_at])),
        "flicker_own": fidelity.flicker(through)["flicker_brightness"],
        "flicker_clip": fidelity.flicker(whole)["flicker_brightness"],
        "rms_chunks": float(np.sqrt(np.square(chunked - whole).mean())),
        "rms_mp4": float(np.sqrt(np.square(filed - chunked).mean())),
        "seam_height": seams(whole, chunked, chunk)["seam_height"] if chunk < len(whole) else math.nan,
        "parts": table["mse"].tolist(),
        "detail_by_frame": [round(decibels(float(p), float(levels[0].mean())), 3) for p in levels[2]],
    }


def spoilt(study: Study) -> list[Check]:
    """Whether clips that were spoilt by known amounts are measured as spoilt: by nothing, noise, blur, flicker and seams."""

    def look(image: np.ndarray) -> dict[str, float]:
        """Ratios to what was done, or remains of nothing."""
        image = (0.1 + 0.8 * image).astype(np.float32)  # with room for what is added
        rest, at = still(image, 6), np.arange(6)[:, None, None, None]
        noisy = rest + np.random.default_rng(0).normal(0, 0.02, rest.shape).astype(np.float32)
        flicker = lambda by: fidelity.flicker(rest + by / 4 * (-1.0) ** at)["flicker_brightness"]  # by: its second difference
        seam = lambda by: seams(rest, rest + by * (at >= 3), 3)["seam_height"]
        grain = np.random.default_rng(1).normal(0, ERROR_MARGIN / LEVEL, image.shape).astype(np.float32)
        contrast = lambda db: (
            image.mean((0, 1)) + 10 ** (-db / 20) * (image - image.mean((0, 1)))
        )  # takes that much of all detail
        fine = lambda frame: float(_fine(frame[None].astype(np.float32))[0])
        detail = [-decibels(fine(contrast(db)), fine(image)) for db in (DETAIL_MARGIN, DETAIL_MARGIN / 2)]
        errors = [losses(image, image + part * grain)["rms"] for part in (1, 0.5)]
        same, noise, blur = (stage_measures(image, (rest, *[clip] * 3), 3) for clip in (rest, noisy, blurred(rest, 1.0)))
        return {
            "nothing": max(same["mse_total"], abs(same["detail_total"]), same["flicker_clip"], same["seam_height"]),
            "noise": math.sqrt(noise["mse_denoiser"]) / 0.02,
            "elsewhere": noise["mse_autoencoder"] + noise["mse_chunks"] + noise["mse_mp4"],
            "flicker": flicker(0.04) / 0.04,
            "seam": seam(0.02) / 0.02,
            **{f"flicker_{k}": LEVEL * flicker(k * FLICKER_MARGIN / LEVEL) for k in (1, 0.5)},
            **{f"seam_{k}": LEVEL * seam(k * SEAM_MARGIN / LEVEL) for k in (1, 0.5)},
            "blur": blur["detail_denoiser"],
            **dict(zip(("detail", "half_detail", "error", "half_error"), (*detail, *errors), strict=True)),
        }

    seen = pd.DataFrame([look(study.stimuli.array(name)) for name in study.stimuli.names[:SPOILT]])
    return [
        below("a still copy has no error, flicker or seam", seen["nothing"], 1e-6),
        near("noise of 0.02 is charged to its stage, over its size", seen["noise"], 1, within=0.1, worst=True),
        below("... and to no other", seen["elsewhere"], 1e-6),
        near("flicker of 0.01 is recovered, over its size", seen["flicker"], 1, within=0.1, worst=True),
        near("seams of 0.02 are recovered, over their size", seen["seam"], 1, within=0.1, worst=True),
        below("a blur of 1 px takes fine detail away, dB", seen["blur"], -3),
        graded("fine detail less by the margin, dB, and by half of it", seen["detail"], seen["half_detail"], DETAIL_MARGIN),
        graded("noise of the margin, grey levels, and of half of it", seen["error"], seen["half_error"], ERROR_MARGIN),
        graded("flicker of the margin, and of half of it", seen["flicker_1"], seen["flicker_0.5"], FLICKER_MARGIN),
        graded("seams of the margin, and of half of it", seen["seam_1"], seen["seam_0.5"], SEAM_MARGIN),
    ]


def _fine(frames: np.ndarray) -> np.ndarray:
    """Power of fine detail per frame "f"."""
    return power(frames)[:, [BANDS.index(b) for b in FINE]].sum(1)
