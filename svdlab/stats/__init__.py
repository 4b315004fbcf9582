"""Statistics: effects with intervals and verdicts, intervals and tests by name, dose-response.

>>> clips = pd.DataFrame({"stimulus": range(8), "seed": 0, "flow_px": np.linspace(1, 2, 8)})
>>> svdlab.stats.mean("flow_px", "mean flow", clips, unit="px/frame").verdict
'effect'
"""

# ruff: noqa: I001, F401
from svdlab.stats.effects import (
    DESCRIPTIVE, EFFECT, EQUIVALENT, INCONCLUSIVE, LEAST_IMAGES, TOO_FEW, Effect, as_table, corrected, descriptive, difference,
    exact, mean, numbers, paired, per_image, quantity, ratio, share,
)  # fmt: skip
from svdlab.stats.intervals import (
    DoseResponse, Estimate, clustered_proportion, decidable, detectable, dose_response, fdr, mean_interval, paired_shares,
    permutation_p, power, proportion, t_interval, variance_shares, variation,
)  # fmt: skip
