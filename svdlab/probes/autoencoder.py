"""What does the autoencoder lose, without any denoising: by content, by spatial frequency, by size, and between chunks?

    result = svdlab.probes.run("autoencoder", pipe, "results/limitations")
    result.table.query("kind == 'still'").groupby("content").psnr.mean()

Images are encoded as the pipeline encodes them (the mode of the posterior) and decoded one by one; gratings of known
frequency show what contrast comes back; panned images are decoded in one piece and in chunks. No clip is generated. Stills are
measured at the checkpoint's size, at half of it, and, where that is small, at twice: the same network, other pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from skimage import data

from svdlab.measure import fidelity
from svdlab.measure.fidelity import BANDS, grating, kept, modulation, seams
from svdlab.measure.text import make_plate
from svdlab.pipeline.images import sample_image
from svdlab.probes.probe import Check, Example, Graph, Probe, Study, below, near
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
from svdlab.stats.effects import Effect, difference, mean

FACES = {"astronaut": (133, 29, 313, 209), "grace_hopper": (117, 81, 417, 381), "camera": (161, 88, 291, 218)}  # boxes, px
TEXTURES = ("brick", "grass", "gravel")
WORDS = {"OPEN": 7, "EXIT": 8, "TAXI": 9}  # heights of the capitals, px
FREQUENCIES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)  # cycles/px
REPORTED = (1 / 16, 1 / 8, 1 / 4)  # of these a finding each; the graph has them all
ANGLES = (0, 30, 60, 90, 120, 150)  # degrees, of the gratings' normals
LARGEST_DOUBLE = 512  # px: checkpoints up to half of that are also measured at twice their size
LEVEL = 255  # errors are in grey levels
MARGIN = 1.0  # grey levels, rms: an error below that is lost in eight bits
DETAIL_MARGIN, SEAM_MARGIN, SCALE_MARGIN = 1.0, 0.5, 0.25  # dB; grey levels; of a standard deviation that should be 1
OCTAVES = dict(zip([f"db_{i}" for i in range(1, 6)], ("over 32", "32-16", "16-8", "8-4", "below 4"), strict=True))  # px/cycle
CLIP_FRAMES = 8
PAN = 1 / 64  # of the frame's width, per frame, in the clips that are decoded in chunks
NOISE, SEAM = 0.02, 0.01  # of the audit


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
    n_images = 6
    graphs = (
        Graph("PSNR by content", "content", "psnr", "dB", kind="bars", of=own_size),
        Graph("Contrast of gratings that comes back", "frequency", "contrast_kept", "share", "cycles/px"),
        Graph("Detail kept, dB", "band", "db", "", "px/cycle", "content", "plane", by_octave),
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
            study.given.table["content"] = "yours"
        return at_size(study.given, study.height, study.width)

    def plan(self, study: Study) -> pd.DataFrame:
        """No clips."""
        return pd.DataFrame()

    def audit(self, study: Study) -> list[Check]:
        """The measures on images spoilt by a known amount, and on copies."""
        rng = np.random.default_rng(0)

        def noise(image: np.ndarray) -> dict[str, float]:
            image = (0.1 + 0.8 * image).astype(np.float32)
            noisy = image + rng.normal(0, NOISE, image.shape).astype(np.float32)
            return {"noise": losses(image, noisy)["rms"], "copy": losses(image, image)["rms"]}

        def blur(frequency: float) -> float:
            """Contrast kept over the true one, within the border, where a blur sees the image's mirror image."""
            wave = grating((study.height, study.width), frequency)
            inner, soft = (modulation(w[4:-4, 4:-4], frequency) for w in (wave, blurred(wave[None], 1.0)[0]))
            return soft / inner / math.exp(-2 * math.pi**2 * frequency**2)

        seen, blurs = study.each(noise), [blur(f) for f in FREQUENCIES[:3]]
        clip = still(0.1 + 0.8 * study.stimuli.array(study.stimuli.names[0]), CLIP_FRAMES)
        step = SEAM * (np.arange(len(clip)) // 3 % 2)[:, None, None, None].astype(np.float32)
        return [
            below("a copy has no error: grey levels", seen["copy"], 1e-9),
            near("noise of 5.1 grey levels is recovered", seen["noise"], NOISE * LEVEL, within=0.05, worst=True),
            near("a grating blurred by 1 px keeps exp(-2 pi^2 f^2)", blurs, 1, within=0.05, worst=True),
            near("seams of 0.01 are recovered", seams(clip, clip + step, 3)["seam_height"], SEAM, within=0.05),
            below("without seams there are none", seams(clip, clip, 3)["seam_height"], 1e-9),
        ]

    def measure(self, study: Study) -> pd.DataFrame:
        """Rows of three kinds: "still" (an image at a size), "grating", "clip" (a panned image, in chunks or not)."""
        return pd.DataFrame([*_stills(study), *_gratings(study), *_clips(study)])

    def findings(self, study: Study, clips: pd.DataFrame) -> Iterator[Effect]:
        return findings(clips)

    def verdict(self, study: Study, found: Mapping[str, Effect]) -> str:
        psnr = sorted((e.value, key.removeprefix("psnr_")) for key, e in found.items() if key.startswith("psnr_"))
        listed = ", ".join(f"{content} {value:.1f}" for value, content in psnr)
        return f"{super().verdict(study, found)} PSNR by content, in dB: {listed}."

    def examples(self, study: Study, clips: pd.DataFrame) -> list[Example]:
        return super().examples(study, own_size(clips))

    def example(self, study: Study, clips: pd.DataFrame, what: str, row: Any) -> Example:
        image = study.stimuli.array(row["stimulus"])[None]
        both = np.concatenate([image, through_autoencoder(study.pipe, image)])
        return Example(f"{what}: {row['stimulus']}, before and after", both)


def findings(table: pd.DataFrame) -> Iterator[Effect]:
    """Of a table of the rows that `Autoencoder.measure` makes."""
    stills, waves, clips = (table[table["kind"] == kind] for kind in ("still", "grating", "clip"))
    own, grey = own_size(table), partial(mean, unit="grey levels")
    yield grey("rms", "error of a round trip at the checkpoint's size", own, margin=MARGIN)
    for content, group in own.groupby("content", sort=False):
        yield mean(f"psnr_{content}", f"PSNR, {content}", group, "psnr", unit="dB", null=None)
    yield mean("ssim", "SSIM", own, unit="", null=None)
    for band, column in zip(BANDS[1:], OCTAVES, strict=True):
        yield mean(column, f"detail kept, {band} cycles/px", own, unit="dB", margin=DETAIL_MARGIN)
    for frequency in REPORTED:
        what, group = f"contrast kept of gratings of {1 / frequency:.3g} px", waves[waves["frequency"] == frequency]
        yield mean(f"contrast_{1 / frequency:.0f}px", what, group, "contrast_kept", unit="share", null=None)
    for (height, width), group in stills[~stills["own_size"].astype(bool)].groupby(["height", "width"]):
        both, ends = pd.concat([own, group]), (height, own["height"].iloc[0])
        what = f"PSNR at {width:.0f}x{height:.0f} minus that at the checkpoint's size"
        yield difference(f"size_{width:.0f}x{height:.0f}", what, both, "psnr", by="height", unit="dB", levels=ends)
    yield grey("seam_height", "seams between decode chunks", clips, margin=SEAM_MARGIN)
    yield grey("chunk_rms", "change by decoding in chunks", clips, null=None)
    yield grey("flicker", "flicker of a still image", clips, margin=SEAM_MARGIN)
    scale = own.assign(excess=own["latent_rms"] - 1)
    yield mean("scale", "scaled latents' root mean square minus 1", scale, "excess", unit="", margin=SCALE_MARGIN)


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
    for angle in ANGLES:
        for frequency in FREQUENCIES:
            wave = grating((study.height, study.width), frequency, angle=angle)
            through = through_autoencoder(study.pipe, wave[None])[0]
            ratio = modulation(through, frequency, angle=angle) / modulation(wave, frequency, angle=angle)
            row = {"kind": "grating", "stimulus": f"grating at {angle} degrees", "content": "gratings"}
            yield row | {"frequency": frequency, "angle": angle, "contrast_kept": ratio}


def _clips(study: Study) -> Iterator[dict[str, Any]]:
    # No more frames at once than the study decodes: memory may not have room for them.
    frames = max(2, min(CLIP_FRAMES, study.conditions.decode_chunk_size or CLIP_FRAMES))
    chunk = min(study.options["decode_chunk_size"], frames - 1)
    whole = study.stimuli.where(study.stimuli.table["content"].isin(["images", "yours"]))
    for name in whole.names[:6]:
        latents = encode(study.pipe, panned(whole.array(name), frames, px=PAN * study.width))
        found = seams(decode(study.pipe, latents), decode(study.pipe, latents, chunk), chunk)
        found |= fidelity.flicker(through_autoencoder(study.pipe, still(whole.array(name), frames)))
        numbers = {"seam_height": "seam_height", "chunk_rms": "chunk_rms", "flicker": "flicker_brightness"}
        row = {"kind": "clip", "stimulus": name, "content": "panned"}
        yield row | {name: LEVEL * found[key] for name, key in numbers.items()}
