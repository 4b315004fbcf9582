"""Statistics: effects with intervals and verdicts, intervals and tests by name, dose-response.

>>> clips = pd.DataFrame({"stimulus": range(8), "seed": 0, "flow_px": np.linspace(1, 2, 8)})
>>> svdlab.stats.mean("flow_px", "mean flow", clips, unit="px/frame").verdict
'effect'
"""

from svdlab.stats.effects import (
    DESCRIPTIVE,
    EFFECT,
    EQUIVALENT,
    INCONCLUSIVE,
    LEAST_IMAGES,
    TOO_FEW,
    Effect,
    as_table,
    corrected,
    descriptive,
    difference,
    exact,
    mean,
    numbers,
    paired,
    per_image,
    quantity,
    ratio,
    share,
)  # fmt: skip
from svdlab.stats.intervals import (
    Estimate,
    bootstrap,
    clustered_proportion,
    decidable,
    detectable,
    equivalent_mean,
    equivalent_proportion,
    fdr,
    mean_interval,
    paired_shares,
    permutation_interval,
    permutation_p,
    power,
    proportion,
    proportion_bound,
    smallest_p,
    t_interval,
    variation,
)  # fmt: skip
from svdlab.stats.response import DoseResponse, dose_response, variance_shares

__all__ = [
    "DESCRIPTIVE", "EFFECT", "EQUIVALENT", "INCONCLUSIVE", "LEAST_IMAGES", "TOO_FEW", "DoseResponse", "Effect", "Estimate",
    "as_table", "bootstrap", "clustered_proportion", "corrected", "decidable", "descriptive", "detectable", "difference",
    "dose_response", "equivalent_mean", "equivalent_proportion", "exact", "fdr", "mean", "mean_interval",
    "numbers", "paired", "paired_shares", "per_image", "permutation_interval", "permutation_p", "power", "proportion",
    "proportion_bound", "quantity", "ratio", "share", "smallest_p", "t_interval",
    "variance_shares", "variation",
]  # fmt: skip
