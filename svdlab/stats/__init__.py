"""Statistics: effects with intervals and verdicts, intervals and tests by name, dose-response.

>>> clips = pd.DataFrame({"stimulus": range(8), "seed": 0, "flow_px": np.linspace(1, 2, 8)})
>>> svdlab.stats.mean("flow_px", "mean flow", clips, unit="px/frame").verdict
'effect'
"""

# ruff: noqa: I001
from svdlab.stats.effects import DESCRIPTIVE, EFFECT, EQUIVALENT, INCONCLUSIVE, LEAST_IMAGES, TOO_FEW, Effect
from svdlab.stats.effects import as_table, cells, corrected, descriptive, difference, exact, mean, paired, ratio, share
from svdlab.stats.intervals import Estimate, clustered_proportion, detectable, fdr, images_needed, mean_interval
from svdlab.stats.intervals import paired_shares, permutation_p, proportion, t_interval
from svdlab.stats.response import DoseResponse, dose_response, variance_shares

__all__ = ["DESCRIPTIVE", "EFFECT", "EQUIVALENT", "INCONCLUSIVE", "LEAST_IMAGES", "TOO_FEW", "Effect", "as_table", "cells"]
__all__ += ["corrected", "descriptive", "difference", "exact", "mean", "paired", "ratio", "share"]
__all__ += ["Estimate", "clustered_proportion", "detectable", "fdr", "images_needed", "mean_interval", "paired_shares"]
__all__ += ["DoseResponse", "dose_response", "permutation_p", "proportion", "t_interval", "variance_shares"]
