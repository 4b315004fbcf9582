"""The full verification of both organisms, written into the model card. About an hour on two cores: `make validate`.

$ python tools/validate_organism.py                        # every table of svdlab/organism/card.md
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svdlab.errors import InputError
from svdlab.organism import world
from svdlab.pipeline.checkpoints import load_pipeline
from svdlab.probes.verify import BLOCKS, COLUMNS, FIRST_SEED, bootstrap, measure_scenes, verify

CARD = Path(__file__).parents[1] / "svdlab" / "organism" / "card.md"
SEEDS_EACH = 4  # of each image, so that the spread over seeds is not that over images
AWAY = [(7, 40), (12, 127), (5, 127), (7, 200), (20, 60)]  # (fps, bucket)


def scenes_of(place: str, n: int, offset: int = 0) -> world.Scenes:
    """n scenes at the fixed condition or away from it, each image SEEDS_EACH times; `factors.image` numbers the images."""
    seed = FIRST_SEED + 1000 * BLOCKS.index(place) + offset
    cells = [(7, 127)] if place == "fixed" else AWAY
    fps, bucket = zip(*[cells[i % len(cells)] for i in range(n // SEEDS_EACH)], strict=True)
    hue = [float(h) for h in np.random.default_rng(seed).uniform(*world.COOL, len(fps))]
    conditions: dict[str, Any] = dict(fps=list(fps), motion_bucket_id=list(bucket), hue=hue)
    s = world.scenes(len(fps), seed=seed, motion="object", background="light", **conditions)
    again = {f.name: np.repeat(getattr(s, f.name), SEEDS_EACH, axis=0) for f in fields(s) if f.name != "factors"}
    factors = s.factors.assign(image=range(offset, offset + len(s)))
    return world.Scenes(**again, factors=factors.loc[factors.index.repeat(SEEDS_EACH)].reset_index(drop=True))


def compare_fixed(fixed: str = "organism-fixed", base: str = "organism", *, n: int = 160) -> pd.DataFrame:
    """The fine-tuned organism minus its base, at the fixed condition and away from it, same images and seeds."""
    if n < 2 * SEEDS_EACH:
        raise InputError(f"n={n}: give at least {2 * SEEDS_EACH} clips, {SEEDS_EACH} seeds of two images.")
    tables = []
    for name in (fixed, base):
        pipe = load_pipeline(name)
        parts = [
            measure_scenes(pipe, scenes_of(place, min(40, n - i), i), i).assign(block=place)
            for place in ("fixed", "away")
            for i in range(0, n, 40)
        ]
        tables.append(pd.concat(parts, ignore_index=True))
    return pd.DataFrame(fixed_rows(*tables, fixed, base), columns=COLUMNS)


def fixed_rows(a: pd.DataFrame, b: pd.DataFrame, fixed: str, base: str) -> list[tuple]:
    """Slope on the law, and standard deviation of measured over law between an image's seeds; intervals over images.

    Only clips that could be measured in both count, and only images with two or more such clips.
    """

    def slope(xy: np.ndarray, xx: np.ndarray, _: np.ndarray) -> float:
        return float(xy.sum() / xx.sum())

    def spread(_: np.ndarray, __: np.ndarray, variance: np.ndarray) -> float:
        return float(np.sqrt(variance.mean()))

    rows: list[tuple] = []
    for place in ("fixed", "away"):
        pair = [clips[clips.block == place].reset_index(drop=True) for clips in (a, b)]
        seen = pair[0].measured.notna() & pair[1].measured.notna()
        sums = [_by_image(clips[seen]) for clips in pair]
        images = len(sums[0][0])
        for what, f in (("slope on the law", slope), ("spread over seeds, of the law", spread)):
            for name, s in zip((fixed, base), sums, strict=True):
                held = place == "fixed" and f is slope and name == fixed
                asked, passed = ("0.85 to 1.15", 0.85 <= f(*s) <= 1.15) if held else ("reported", None)
                rows.append((f"{place}: {name}: {what}", f(*s), *bootstrap(f, *s, paired=True), images, asked, passed))
            low, high = bootstrap(lambda *s, f=f: f(*s[:3]) - f(*s[3:]), *sums[0], *sums[1], paired=True)
            difference = f(*sums[0]) - f(*sums[1])
            rows.append((f"{place}: difference: {what}", difference, low, high, images, "reported", None))
    return rows


def _by_image(clips: pd.DataFrame) -> list[np.ndarray]:
    """For each image: sum of measured * law, sum of law squared, variance of measured / law between its seeds."""
    clips = clips.assign(xy=clips.measured * clips.law, xx=clips.law**2, ratio=clips.measured / clips.law)
    grouped = clips.groupby("image")
    table = pd.DataFrame(dict(xy=grouped.xy.sum(), xx=grouped.xx.sum(), variance=grouped.ratio.var())).dropna()
    return [table[c].to_numpy() for c in table]


def into_card(table: pd.DataFrame, section: str, command: str, card: Path = CARD) -> None:
    """Put a table under its heading in the model card, in place of the one that stands there."""
    passed = [{True: "yes", False: "**no**"}.get(p, "") for p in table.passed]
    cells = table.astype(object).where(table.notna(), "").assign(passed=passed)
    rows = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in cells.to_numpy()]
    lines = [list(table.columns), ["---"] * table.shape[1], *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text = card.read_text(encoding="utf8")
    start, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    if start not in text:
        text += f"\n## {section}\n\n{start}\n{end}\n"
    before, rest = text.split(start)
    after = rest.split(end)[1]
    card.write_text(f"{before}{start}\nMade by `{command}`.\n\n{body}\n{end}{after}", encoding="utf8")


def main() -> int:
    law = verify("organism")
    into_card(law, "Verification of organism", "svdlab organism verify organism")
    fixed = compare_fixed()
    into_card(fixed, "organism-fixed against organism", "make validate")
    print(pd.concat([law, fixed]).to_string(index=False))
    return int(not (law.passed.dropna().all() and fixed.passed.dropna().all()))


if __name__ == "__main__":
    sys.exit(main())
