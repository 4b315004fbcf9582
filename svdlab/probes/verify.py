"""Does a trained organism obey its world? Clips of scenes that it never saw, measured and compared with the laws.

    $ svdlab organism verify organism --quick

Every clip starts from an image of the world whose seed training never used. Displacement is measured by ground-truth
trackers that know the scene (`organism.trackers`); the full table also has `svdlab.motion`, which does not.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats as sps
from statsmodels.stats.proportion import binom_tost
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
from tqdm.auto import tqdm

from svdlab.errors import flag, path, takes, text
from svdlab.measure import motion
from svdlab.measure.files import write_whole
from svdlab.organism import trackers, world
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.pipeline.conditions import Conditions
from svdlab.pipeline.generate import ProbePipeline, generate_batch
from svdlab.pipeline.hooks import edit
from svdlab.pipeline.images import decode_latents, encode, open_image
from svdlab.pipeline.quick import quick_convolutions
from svdlab.probes.natural import BATCH, bootstrap, make_clips, natural_rows, slope
from svdlab.stats import intervals

FIRST_SEED = 500_000  # scenes for verification; training draws from 1,000,000 up
# (fps, bucket) cells of the law: displacements of 0.4 to 3.9 px/frame over a sixfold range of fps
CELLS = [(4, 20), (4, 60), (4, 105), (5, 120), (6, 40), (6, 127), (7, 90)]
CELLS += [(7, 180), (9, 230), (12, 60), (12, 150), (18, 230), (24, 150), (24, 250)]
BLOCKS = ("law", "warm", "cool", "pan", "dark", "any", "fixed", "away", "swap")  # each has its own thousand seeds
SIZES = dict(law=8 * 14, warm=80, cool=160, pan=400, dark=480, any=48)
QUICK = dict(law=2 * 14, warm=16, cool=20, pan=20, dark=20)
GUIDED = dict(law=4 * 14, pan=40, dark=40)
COLUMNS = ["what", "measured", "low", "high", "n", "asked", "passed"]


@takes(checkpoint=text, quick=flag, out=path)
def verify(checkpoint: str = "organism", *, quick: bool = False, out: str | Path | None = None) -> pd.DataFrame:
    """The table of laws: what, measured, interval, n, what was asked, passed.

    >>> table = verify("organism", quick=True)           # doctest: +SKIP

    quick: about 150 clips, some minutes, with wider thresholds for so few clips; the table says which. The full
    table takes about 1,900 clips, 136 of them guided. out: folder for `verify.csv` (the table) and `clips.csv` (a row per
    clip).
    """
    pipe = load_pipeline(checkpoint)
    clips = generate_all(pipe, QUICK if quick else SIZES, motion_too=not quick)
    rows = [*law_rows(clips, quick), *effect_rows(clips, quick), *image_rows(clips), *embedding_rows(pipe, 8 if quick else 40)]
    if not quick:
        rows += embedding_rows(pipe, 40, noise_aug_strength=1.0)  # where the latents say little, the embedding must
        rows += guided_rows(generate_all(pipe, GUIDED, guidance=3.0))
    table = pd.DataFrame([*rows, codec_row(pipe), *natural_rows(pipe, quick)], columns=COLUMNS)
    if out is not None:
        for name, written in (("verify.csv", table), ("clips.csv", clips)):
            with write_whole(Path(out) / name) as part:
                written.to_csv(part, index=False)
    return table


# --- clips ------------------------------------------------------------------------------------------------------------


def scenes_for(block: str, n: int, offset: int = 0) -> world.Scenes:
    """The images of one block of the verification; `offset` numbers its parts."""
    seed = FIRST_SEED + 1000 * BLOCKS.index(block) + offset
    n = len(CELLS) * max(n // len(CELLS), 2) if block == "law" else n
    hue = np.random.default_rng(seed).uniform(*(world.WARM if block == "warm" else world.COOL), n).tolist()
    fps, bucket = np.repeat(np.array(CELLS), n // len(CELLS), axis=0).T.tolist() if block == "law" else (7, 127)
    plain: dict[str, Any] = dict(motion="object", background="light", hue=hue, fps=fps, motion_bucket_id=bucket)
    shapes, announced = [world.SHAPES[i % 3] for i in range(n)], ["object" if i % 2 else "pan" for i in range(n)]
    factors: dict[str, dict[str, Any]] = {
        **dict.fromkeys(("warm", "cool"), plain | {"shape": shapes}),
        "pan": dict(motion="pan", background="light", fps=7, motion_bucket_id=127),
        "dark": dict(announced=announced, background="dark", hue=hue, fps=7, motion_bucket_id=150),
        "any": {},
    }
    return world.scenes(n, seed=seed, **factors.get(block, plain))


def generate_all(
    pipe: ProbePipeline, sizes: dict[str, int], *, guidance: float = 1.0, motion_too: bool = False
) -> pd.DataFrame:
    """A row for each clip of all blocks, made by two threads of one torch thread each."""

    def make(block: str, n: int, offset: int) -> pd.DataFrame:
        return measure_scenes(pipe, scenes_for(block, n, offset), offset, guidance, motion_too).assign(block=block)

    each = {b: 2 * len(CELLS) if b == "law" else 5 * BATCH for b in sizes}  # two scenes in each cell; else five batches
    tasks = [(b, min(each[b], n - i), i) for b, n in sizes.items() for i in range(0, n, each[b])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quick_convolutions(pipe), ThreadPoolExecutor(2) as pool:
            tables = list(tqdm(pool.map(make, *zip(*tasks, strict=True)), total=len(tasks), desc="verify", unit="block"))
    finally:
        torch.set_num_threads(threads)
    return pd.concat(tables, ignore_index=True)


def measure_scenes(
    pipe: ProbePipeline, scenes: world.Scenes, offset: int = 0, guidance: float = 1.0, motion_too: bool = False
) -> pd.DataFrame:
    """Make a clip from each scene's first frame, and measure it; a row per clip."""
    f, rows = scenes.factors, []
    clips = make_clips(pipe, scenes.video[:, 0], f.fps, f.motion_bucket_id, FIRST_SEED + offset, guidance)
    for frames, (_, scene), truth in zip(clips, f.iterrows(), scenes.video, strict=True):
        more = {f"motion_{k}": v for k, v in motion.summary(frames).items()} if motion_too else {}
        rows.append({**scene, "guidance": guidance, **measured(frames, scene, truth), **more})
    return pd.DataFrame(rows)


def measured(frames: np.ndarray, scene: Any, truth: np.ndarray) -> dict[str, Any]:
    """What the ground-truth trackers find in frames "f h w c" of a scene, and what its law says."""
    moves_itself = scene["warm"] and scene["announced"] == "object"
    return dict(
        measured=trackers.displacement(frames, scene),
        law=float(world.law(scene["fps"], scene["motion_bucket_id"], warm=moves_itself)),
        psnr=-10 * np.log10(float(np.square(frames[0] - truth[0]).mean()) + 1e-12),
        kept=trackers.sprite_kept(frames, scene) if scene["announced"] == "object" else np.nan,
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def law_rows(clips: pd.DataFrame, quick: bool = False) -> list[tuple[Any, ...]]:
    """Displacement against K * bucket / fps over the cells: order, slope, and whether 1/fps or 1/(fps - 1)."""
    law = clips[clips.block == "law"].dropna(subset="measured")
    cells = law.groupby(["fps", "motion_bucket_id"]).agg(law=("law", "first"), measured=("measured", "median"))
    rho = float(sps.spearmanr(cells.law, cells.measured).statistic)
    least = 0.90 if quick else 0.97  # medians of two clips change their order where cells lie close together
    x, y = law.law.to_numpy(), law.measured.to_numpy()
    other = world.K * law.motion_bucket_id.to_numpy() / (law.fps.to_numpy() - 1)

    def gain(x: np.ndarray, z: np.ndarray, y: np.ndarray) -> float:
        return float(1 - np.square(y - slope(x, y) * x).sum() / np.square(y - slope(z, y) * z).sum())

    b, saved = slope(x, y), gain(x, other, y)
    low, high = bootstrap(gain, x, other, y, paired=True)
    # With so few clips, a difference this small at high fps leaves the interval across zero: quick looks at the estimate.
    better, asked = (saved > 0, "> 0") if quick else (low > 0, "interval above 0")
    rows: list[tuple[Any, ...]] = [
        ("law: Spearman over cell medians", rho, np.nan, np.nan, len(cells), f">= {least}", rho >= least),
        ("law: slope on K*bucket/fps", b, *bootstrap(slope, x, y, paired=True), len(x), "0.85 to 1.15", 0.85 <= b <= 1.15),
        ("law: squared error that 1/fps saves over 1/(fps-1)", saved, low, high, len(x), asked, better),
    ]
    if "motion_object_px" in law:
        seen = law.dropna(subset="motion_object_px")
        x, y = seen.law.to_numpy(), seen.motion_object_px.to_numpy(float)
        numbers = (slope(x, y), *bootstrap(slope, x, y, paired=True), len(x))
        rows.append(("law: the same slope by svdlab.motion", *numbers, "reported", None))
    return rows


def effect_rows(clips: pd.DataFrame, quick: bool) -> list[tuple[Any, ...]]:
    """Planted effects and planted nulls."""
    warm, cool = (clips[clips.block == block].dropna(subset="measured") for block in ("warm", "cool"))
    speeds, ratio = (warm.measured.to_numpy(), cool.measured.to_numpy()), lambda a, b: float(a.mean() / b.mean())
    low, high = bootstrap(ratio, *speeds)
    inside = bool(low >= 0.40 and high <= 0.65)
    rows = [("planted 1: warm speed over cool", ratio(*speeds), low, high, len(warm), "interval in 0.40 to 0.65", inside)]
    for what, a, b in (
        ("square against disc", "shape == 'square'", "shape == 'disc'"),
        ("triangle against disc", "shape == 'triangle'", "shape == 'disc'"),
        ("left half against right", "x < 32", "x >= 32"),
        ("upper half against lower", "y < 32", "y >= 32"),
    ):
        one, other = (cool.query(part).measured.to_numpy() for part in (a, b))
        rows.append(_equal_means(f"planted null: {what}", one, other, 0.30 if quick else 0.15, float(cool.law.mean())))
    return rows + share_rows(clips, *((0.25, 0.25) if quick else (0.08, 0.10)))


def share_rows(clips: pd.DataFrame, pan_margin: float, frozen_margin: float) -> list[tuple[Any, ...]]:
    """Which pans that move go right, and which clips on dark ground stand still: shares with their 90 % intervals, equivalent
    to the planted ones where TOST at 0.05 says so."""
    pan, dark = clips[clips.block == "pan"], clips[clips.block == "dark"].dropna(subset="measured")
    right = pan.measured[pan.measured.abs() > 0.25 * pan.law] > 0
    rows = []
    for what, hits, expected, margin in (
        ("planted 2: share of pans to the right", right, world.PAN_RIGHT, pan_margin),
        ("planted 3: frozen on dark", dark.measured.abs() < 0.25 * dark.law, world.FROZEN_ON_DARK, frozen_margin),
    ):
        ends, count = (max(expected - margin, 0.0), min(expected + margin, 1.0)), int(hits.sum())
        found, asked = intervals.proportion(count, len(hits), confidence=0.9), f"{expected} within {margin} (TOST)"
        same = bool(binom_tost(count, len(hits), *ends)[0] < 0.05)
        rows.append((what, found.value, found.low, found.high, len(hits), asked, same))
    return rows


def _equal_means(what: str, a: np.ndarray, b: np.ndarray, margin: float, scale: float) -> tuple[Any, ...]:
    """Difference of means in shares of the law's speed (`scale`, known beforehand) with its 90 % interval, which lies inside
    the margin exactly when TOST at 0.05 does."""
    compare = CompareMeans(DescrStatsW(a / scale), DescrStatsW(b / scale))
    low, high = compare.tconfint_diff(alpha=0.10, usevar="unequal")
    p, *_ = compare.ttost_ind(-margin, margin, usevar="unequal")
    value = float((a.mean() - b.mean()) / scale)
    return what, value, float(low), float(high), min(len(a), len(b)), f"TOST within {100 * margin:.0f} %", bool(p < 0.05)


def image_rows(clips: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Whether frame 0 is the input, and whether the sprite lasts."""
    psnr = clips.psnr.to_numpy()
    middle, kept = float(np.median(psnr)), clips.kept.dropna().astype(bool)
    sharp = (middle, *bootstrap(np.median, psnr), len(psnr), ">= 27", middle >= 27)
    share = intervals.proportion(int(kept.sum()), len(kept))
    lasts = (share.value, share.low, share.high, share.n, ">= 0.95", share.value >= 0.95)
    return [("frame 0 against the input, median PSNR (dB)", *sharp), ("sprite in the last frame, same hue", *lasts)]


def guided_rows(clips: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The same numbers under guidance 1 to 3, reported only: guidance sharpens whatever the image suggests."""
    rows = [*law_rows(clips)[1:2], *share_rows(clips, 1, 1)]
    return [(f"{what}, guidance 1 to 3", *numbers, "reported", None) for what, *numbers, _, _ in rows]


def embedding_rows(pipe: ProbePipeline, n: int, *, noise_aug_strength: float = 0.02) -> list[tuple[Any, ...]]:
    """What the image embedding alone does: each clip again with its neighbour's embedding, latents and noise kept."""
    images = [open_image(frame) for frame in scenes_for("swap", n).video[:, 0]]
    changed: list[float] = []
    between: list[float] = []
    for first in range(0, n, BATCH):
        some = images[first : first + BATCH]
        conditions = [Conditions(fps=7, noise_aug_strength=noise_aug_strength, max_guidance_scale=1.0)] * len(some)
        own, other = (
            generate_batch(pipe, some, conditions, [FIRST_SEED + k + i for i in range(len(some))]) for k in (first, first + n)
        )
        with edit(pipe, "image_embeddings", lambda value, step: value.roll(1, 0)):
            swapped = generate_batch(pipe, some, conditions, [FIRST_SEED + first + i for i in range(len(some))])
        for found, others in ((changed, swapped), (between, other)):
            found += [float(np.sqrt(np.square(a.frames[-1] - b.frames[-1]).mean())) for a, b in zip(own, others, strict=True)]
    low, high = bootstrap(np.mean, np.array(changed))
    by_embedding = (float(np.mean(changed)), low, high, n, "interval above 1/255", bool(low > 1 / 255))
    by_seed = (float(np.mean(between)), *bootstrap(np.mean, np.array(between)), n, "reported", None)
    what = "RMS change of the last frame"
    return [
        (f"another scene's embedding, latents kept, noise {noise_aug_strength:g}: {what}", *by_embedding),
        (f"for comparison, another seed: {what}", *by_seed),
    ]


def codec_row(pipe: ProbePipeline, n: int = 24) -> tuple[Any, ...]:
    """PSNR of frames through the VAE and back."""
    found = []
    for video in world.scenes(n, seed=FIRST_SEED + 99_000).video:
        back = decode_latents(pipe, encode(pipe, video), len(video))
        found.append(-10 * np.log10(np.square(back - video).mean()))
    middle = float(np.median(found))
    low, high = bootstrap(np.median, np.array(found))
    return "VAE round trip, median PSNR (dB)", middle, low, high, n, ">= 30", middle >= 30
