"""What does the autoencoder lose, without any denoising: by content, by spatial frequency, by size, and between chunks.

    >>> result = svdlab.probes.run("autoencoder", pipe, "results/limitations")
    >>> result.table.query("kind == 'still'").groupby("content").psnr.mean()

Pictures are encoded as the pipeline encodes them (the mode of the posterior) and decoded one by one; gratings of known
frequency say what contrast comes back; panned pictures are decoded in one piece and in chunks. No clip is generated. Stills
are shown at the checkpoint's size, at half of it, and, where that is small, at twice: the same network, other pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from skimage import data

from svdlab.measure import fidelity
from svdlab.measure.detail import BANDS, grating, kept, modulation, seams
from svdlab.measure.text import make_plate
from svdlab.pipeline.images import sample_image
from svdlab.probes import controls
from svdlab.probes import findings as rules
from svdlab.probes.base import Check, Panel, Probe, Shown, Study
from svdlab.probes.findings import Finding
from svdlab.probes.stimuli import PHOTOGRAPHS, Stimuli, from_arrays

FACES = {"astronaut": (133, 29, 313, 209), "grace_hopper": (117, 81, 417, 381), "camera": (161, 88, 291, 218)}  # boxes, px
TEXTURES = ("brick", "grass", "gravel")
WORDS = ("OPEN", "EXIT", "TAXI")
FREQUENCIES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)  # cycles per px
TOLD = (1 / 16, 1 / 8, 1 / 4)  # of these a finding each; the graph has them all
ANGLES = (0, 30, 60, 90, 120, 150)  # degrees, of the gratings' normals
LARGEST_DOUBLE = 512  # px: checkpoints up to half of that are also looked at at twice their size
LEVEL = 255  # errors are given in grey levels
MARGIN = 1.0  # grey levels, rms: an error below that is lost in eight bits
DETAIL_MARGIN, SEAM_MARGIN, SCALE_MARGIN = 1.0, 0.5, 0.25  # dB; grey levels; of a standard deviation that should be 1
BAND_COLUMNS = {band: f"db_{i}" for i, band in enumerate(BANDS) if i}
OCTAVES = ("over 32", "32-16", "16-8", "8-4", "below 4")  # the same bands in px a cycle
CLIP_FRAMES = 8
PAN = 1 / 64  # of the frame's width, per frame, in the clips that are decoded in chunks


def stimuli(source: str, quick: bool) -> Stimuli:
    """Faces and textures out of free photographs, and whole pictures of the checkpoint's own ground. Text and edges are
    drawn at the size that is looked at (`drawn`)."""
    faces = [sample_image(name).crop(box) for name, box in FACES.items()]
    textures = [getattr(data, name)() for name in TEXTURES]
    licences = [PHOTOGRAPHS[n][1] for n in FACES] + ["CC0"] * len(TEXTURES)
    names = [f"face of {n}" for n in FACES] + list(TEXTURES)
    content = ["faces"] * len(FACES) + ["texture"] * len(TEXTURES)
    crops = from_arrays(names, [*faces, *textures], source="scikit-image, matplotlib", licence="", content=content)
    crops.table["licence"] = licences
    whole = Stimuli.of(source, 6)
    return _joined(crops, replace(whole, table=whole.table[["name", "source", "licence"]].assign(content="pictures")))


def plan(study: Study) -> pd.DataFrame:
    """No clips; but from here on the study's stimuli include what is drawn."""
    if "content" not in study.original.table:
        study.original.table["content"] = "yours"
    study.stimuli = at_size(study, *study.size)
    return pd.DataFrame()


def at_size(study: Study, height: int, width: int) -> Stimuli:
    """All stimuli at a size: pictures resized from their originals, text and edges drawn anew, their details as many px."""
    return _joined(study.original.prepared(height, width), drawn(height, width))


def drawn(height: int, width: int) -> Stimuli:
    """Three lines of text and three pictures of edges, "h w", with details of the same px at every size."""
    y, x = np.mgrid[:height, :width].astype(float)
    turned = x * math.cos(0.1) + y * math.sin(0.1)  # no edge runs along the pixels
    across = y * math.cos(0.1) - x * math.sin(0.1)
    edges = {
        "slanted edge": 0.2 + 0.6 * (turned > width / 2),
        "squares": 0.2 + 0.6 * (((turned // 12) + (across // 12)) % 2),
        "rings": 0.2 + 0.6 * ((np.hypot(x - width / 2, y - height / 2) // 6) % 2),
    }
    text = {f"{w} in {h} px": make_plate(w, (height, width), height=h).image for w, h in zip(WORDS, (7, 8, 9), strict=True)}
    pictures = [np.repeat(p[..., None], 3, -1).astype(np.float32) for p in edges.values()] + list(text.values())
    content = ["edges"] * len(edges) + ["text"] * len(text)
    return from_arrays([*edges, *text], pictures, source="drawn by svdlab", licence="Apache-2.0", content=content)


def measure(study: Study) -> pd.DataFrame:
    """Rows of three kinds: "still" (a picture at a size), "grating", "clip" (a panned picture, in chunks or not)."""
    rows = [*_stills(study), *_gratings(study), *_clips(study)]
    return pd.DataFrame(rows)


def still(picture: np.ndarray, through: np.ndarray) -> dict[str, float]:
    """What a round trip did to a picture, both "h w 3" in [0, 1]: flat dict.

    `rms` error in grey levels, `psnr` in dB (NaN where equal), `ssim`; `db_1` ... `db_5`: what is kept of the detail of each
    of `svdlab.measure.detail.BANDS`, in dB.
    """
    found = fidelity.reconstruction_error(picture, through)
    table = kept(picture, through[None]).set_index("band").db
    return {
        "rms": LEVEL * math.sqrt(found["reconstruction_mse"]),
        "psnr": found["reconstruction_psnr"] if math.isfinite(found["reconstruction_psnr"]) else math.nan,
        "ssim": found["reconstruction_ssim"],
        **{column: float(table[band]) for band, column in BAND_COLUMNS.items()},
    }


def sizes(study: Study) -> list[tuple[int, int]]:
    """The checkpoint's own size, half of it unless that is below 64 px, and twice it where it is small."""
    h, w = study.size
    factor = study.pipe.vae_scale_factor
    half = [(h // 2, w // 2)] if not (h // 2 % factor or w // 2 % factor) and min(h, w) // 2 >= 64 else []
    double = [(2 * h, 2 * w)] if 2 * max(h, w) <= LARGEST_DOUBLE else []
    return [(h, w), *half, *double]


def _stills(study: Study) -> list[dict[str, Any]]:
    rows = []
    for height, width in sizes(study):
        own = (height, width) == study.size
        shown = study.stimuli if own else at_size(study, height, width)
        for name, content in zip(shown.names, shown.table["content"], strict=True):
            picture = shown.array(name)
            latents = controls.encode(study.pipe, picture[None])
            through = controls.decode(study.pipe, latents)[0]
            row = {"kind": "still", "stimulus": name, "content": content, "height": height, "width": width, "own_size": own}
            rows.append(row | still(picture, through) | {"latent_rms": float(latents.float().square().mean().sqrt())})
    return rows


def _gratings(study: Study) -> list[dict[str, Any]]:
    rows = []
    for angle in ANGLES:
        for frequency in FREQUENCIES:
            picture = grating(study.size, frequency, angle=angle)
            through = controls.through_autoencoder(study.pipe, picture[None])[0]
            ratio = modulation(through, frequency, angle=angle) / modulation(picture, frequency, angle=angle)
            row = {"kind": "grating", "stimulus": f"grating at {angle} degrees", "content": "gratings"}
            rows.append(row | {"frequency": frequency, "angle": angle, "contrast_kept": ratio})
    return rows


def _clips(study: Study) -> list[dict[str, Any]]:
    # No more at once than the study decodes: memory may not have room for it.
    frames = max(2, min(CLIP_FRAMES, study.conditions.decode_chunk_size or CLIP_FRAMES))
    chunk = min(study.options["decode_chunk_size"], frames - 1)
    whole = study.stimuli.where(study.stimuli.table["content"].isin(["pictures", "yours"]))
    rows = []
    for name in whole.names[:6]:
        latents = controls.encode(study.pipe, controls.panned(whole.array(name), frames, px=PAN * study.size[1]))
        found = seams(controls.decode(study.pipe, latents), controls.decode(study.pipe, latents, chunk), chunk)
        flicker = fidelity.flicker(controls.through_autoencoder(study.pipe, controls.still(whole.array(name), frames)))
        row = {"kind": "clip", "stimulus": name, "content": "panned", "flicker": LEVEL * flicker["flicker_brightness"]}
        rows.append(row | {k: LEVEL * found[k] for k in ("seam_height", "seam_brightness", "chunk_rms")})
    return rows


def audit(study: Study) -> list[Check]:
    """The measures on pictures spoilt by a known amount, and on copies."""
    rng = np.random.default_rng(0)
    noise, blur, equal = [], [], []
    for name in study.stimuli.names:
        picture = (0.1 + 0.8 * study.stimuli.array(name)).astype(np.float32)
        noisy = picture + rng.normal(0, 0.02, picture.shape).astype(np.float32)
        noise.append(still(picture, noisy)["rms"] / (0.02 * LEVEL))
        equal.append(still(picture, picture)["rms"])
    for frequency in FREQUENCIES[:3]:
        wave = grating(study.size, frequency)
        soft = controls.blurred(wave[None], 1.0)[0]
        inner = modulation(_inside(soft), frequency) / modulation(_inside(wave), frequency)
        blur.append(inner / math.exp(-2 * math.pi**2 * frequency**2))
    clip = controls.still(0.1 + 0.8 * study.stimuli.array(study.stimuli.names[0]), CLIP_FRAMES)
    step = 0.01 * (np.arange(len(clip)) // 3 % 2)[:, None, None, None].astype(np.float32)
    height = seams(clip, clip + step, 3)["seam_height"]
    worst = max(noise, key=lambda r: abs(r - 1))
    off = max(blur, key=lambda r: abs(r - 1))
    return [
        Check("a copy has no error", "0 grey levels", f"{max(equal):.1g}", max(equal) == 0),
        Check(
            "noise of 5.1 grey levels is recovered",
            "its size, within 5%",
            f"{worst:.3g} of it at worst",
            abs(worst - 1) < 0.05,
        ),
        Check(
            "a grating blurred by 1 px keeps exp(-2 pi^2 f^2)",
            "that, within 5%",
            f"{off:.3g} of it at worst",
            abs(off - 1) < 0.05,
        ),
        Check("seams of 0.01 are recovered", "0.01, within 5%", f"{height:.4f}", abs(height - 0.01) < 0.0005),
        Check(
            "without seams there are none",
            "0",
            f"{seams(clip, clip, 3)['seam_height']:.1g}",
            not seams(clip, clip, 3)["seam_height"],
        ),
    ]


def findings(study: Study, table: pd.DataFrame) -> list[Finding]:
    return judge(table)


def judge(table: pd.DataFrame) -> list[Finding]:
    """Findings from a table of the rows that `measure` makes."""
    stills, clips, waves = (table[table["kind"] == kind] for kind in ("still", "clip", "grating"))
    own = stills[stills["own_size"].astype(bool)]
    found = [rules.mean("error of a round trip at the checkpoint's size", own, "rms", unit="grey levels", margin=MARGIN)]
    for content, group in own.groupby("content", sort=False):
        found.append(rules.mean(f"PSNR, {content}", group, "psnr", unit="dB", null=None))
    found.append(rules.mean("SSIM", own, "ssim", unit="", null=None))
    for band, column in BAND_COLUMNS.items():
        what = f"detail kept, {band} cycles per px"
        found.append(rules.mean(what, own, column, unit="dB", margin=DETAIL_MARGIN))
    for frequency in TOLD:
        group = waves[waves["frequency"] == frequency]
        found.append(
            rules.mean(f"contrast kept of gratings of {1 / frequency:.3g} px", group, "contrast_kept", unit="share", null=None)
        )
    for (height, width), group in stills[~stills["own_size"].astype(bool)].groupby(["height", "width"]):
        both = pd.concat([own, group])
        what = f"PSNR at {width:.0f}x{height:.0f} less that at the checkpoint's size"
        a, b = height, own["height"].iloc[0]
        found.append(rules.difference(what, both, "psnr", by="height", a=a, b=b, unit="dB"))
    found += [
        rules.mean("seams between decode chunks", clips, "seam_height", unit="grey levels", margin=SEAM_MARGIN),
        rules.mean("change by decoding in chunks", clips, "chunk_rms", unit="grey levels", null=None),
        rules.mean("flicker of a still picture", clips, "flicker", unit="grey levels", margin=SEAM_MARGIN),
    ]
    scale = own.assign(excess=own["latent_rms"] - 1)
    found.append(rules.mean("scaled latents' root mean square less 1", scale, "excess", unit="", margin=SCALE_MARGIN))
    return found


def verdict(study: Study, found: list[Finding]) -> str:
    contents = [f for f in found if f.what.startswith("PSNR, ")]
    listed = ", ".join(f"{f.what.removeprefix('PSNR, ')} {f.value:.1f}" for f in sorted(contents, key=lambda f: f.value))
    return f"{found[0].sentence} PSNR by content, in dB: {listed}."


def panels(study: Study, table: pd.DataFrame) -> list[Panel]:
    own = table[(table["kind"] == "still") & table["own_size"].eq(True)]
    bars = [rules.mean(str(c), g, "psnr", unit="dB", null=None) for c, g in own.groupby("content", sort=False)]
    psnr = pd.DataFrame([{"content": f.what, "psnr": f.value, "low": f.low, "high": f.high} for f in bars])
    waves = []
    for frequency, group in table[table["kind"] == "grating"].groupby("frequency"):
        f = rules.mean("", group, "contrast_kept", unit="share", null=None)
        waves.append({"frequency": frequency, "contrast_kept": f.value, "low": f.low, "high": f.high})
    bands = own.groupby("content", sort=False)[list(BAND_COLUMNS.values())].mean()
    bands = bands.rename(columns=dict(zip(BAND_COLUMNS.values(), OCTAVES, strict=True))).reset_index()
    bands = bands.melt("content", var_name="band", value_name="db")
    bands["band"] = pd.Categorical(bands["band"], OCTAVES, ordered=True)
    return [
        Panel("PSNR by content", psnr, "content", "psnr", "", "bars", "", "dB"),
        Panel(
            "Contrast that comes back of gratings",
            pd.DataFrame(waves),
            "frequency",
            "contrast_kept",
            x_label="cycles per px",
            y_label="share",
        ),
        Panel("Detail kept", bands, "band", "db", "content", "plane", "px a cycle", "dB"),
    ]


def pictures(study: Study, table: pd.DataFrame) -> list[Shown]:
    """The typical and the worst picture by their error, each before and after."""
    own = table[(table["kind"] == "still") & table["own_size"].eq(True)].sort_values("rms", kind="stable")
    shown = []
    for what, row in (("typical", own.iloc[(len(own) - 1) // 2]), ("worst", own.iloc[-1])):
        picture = study.stimuli.array(row["stimulus"])
        through = controls.through_autoencoder(study.pipe, picture[None])
        shown.append(Shown(f"{what}: {row['stimulus']}, before and after", np.concatenate([picture[None], through])))
    return shown


PROBE = Probe(
    name="autoencoder",
    card="The autoencoding part of the model is lossy.",
    question="What does the autoencoder lose by itself: of which content, at which spatial frequencies, between chunks?",
    stimuli=stimuli,
    plan=plan,
    measure=measure,
    audit=audit,
    findings=findings,
    verdict=verdict,
    panels=panels,
    pictures=pictures,
    options={"decode_chunk_size": 3},
)


def _joined(one: Stimuli, two: Stimuli) -> Stimuli:
    table = pd.concat([one.table, two.table], ignore_index=True)
    return Stimuli(table, one.pictures + two.pictures, one.skipped + two.skipped)


def _inside(picture: np.ndarray) -> np.ndarray:
    """Without the border, where a blur sees the picture's mirror image."""
    return picture[4:-4, 4:-4]
