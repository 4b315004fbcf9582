# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Bias
#
# **Question:** does the model degrade some inputs more than others (less motion, faster loss of the image, more blur, a
# preferred direction), and can we be sure?
#
# In image-to-video the person and the place are in the input. So images are compared in pairs that differ in one respect,
# and the answer is an effect with an interval, "no difference" within a margin that was set beforehand, or "inconclusive".
#
# You will see such a study from the pairs to the report, on the model organism; the same lines run on pairs of your own.
#
# **Run time:** about 65 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
manifest: str = ""  # your images in pairs (.csv or .parquet); empty for the planted ones
pairs: int = 12  # planted pairs in each of three schemes
seeds: list = [0]  # for each image; averaged before images are compared
measures: list = ["object_px", "pan_px", "still", "blur_slope", "reconstruction_mse"]  # what is compared
speed_margin: float = 0.3  # px/frame: what counts as no difference in subject speed, set before the first clip
num_inference_steps: int = 8  # denoising steps
out: str = "../results/05-bias"  # folder for figures, clips and tables

# %%
from pathlib import Path

import svdlab
from svdlab import show
from svdlab.probes import bias
from svdlab.probes.bias import planted
from svdlab.study.pairs import read_manifest

# %% [markdown]
# ## The pairs
#
# Three ways to be different. `hue`: the same scene with a warm or a cool sprite; warm ones move at half the speed.
# `mirror`: an image and its mirror image, the noise mirrored too; the camera's pans go right three times as often as
# left. `shape`: a square or a disc, which changes nothing. The manifest states who labelled each image, and under which licence.

# %%
pipe = svdlab.load_pipeline(checkpoint)
counts = dict(hue=pairs, mirror=pairs, shape=pairs)
table = planted.world_pairs(Path(out, "images"), **counts)
table.head(4)

# %%
chosen = manifest or Path(out, "images", "manifest.csv")
show.save(bias.pairs(read_manifest(chosen)), Path(out, "pairs"))

# %% [markdown]
# ## Decide first
#
# Contrasts, measures, margins and images go into `plan.json` before the first clip, and the report names every departure.
# The smallest effect that so many pairs can detect is computed beforehand, too.

# %%
conditions = planted.CONDITIONS.replace(num_inference_steps=num_inference_steps)
options = dict(measures=measures, margins=dict(object_px=speed_margin), seeds=seeds, conditions=conditions)
design = bias.Design(chosen, **options)
print(bias.register(pipe, design, Path(out, "study")).expectation)

# %% [markdown]
# ## Run
#
# The pair is the unit: seeds are averaged, each pair gives one difference, signs are flipped within pairs to see what
# chance does, and all tests of the study are corrected together.

# %%
result = bias.run(pipe, design, Path(out, "study"))
result.table.to_csv(Path(out, "comparisons.csv"), index=False)
print(result.verdict)
result.table[["scheme", "measure", "n", "value", "low", "high", "q", "verdict"]].round(4)

# %%
show.save(result.figure(), Path(out, "forest"))

# %% [markdown]
# **How to read it:** an interval that excludes zero is an effect if q is below 0.05; a triangle is equivalent within the grey
# margin. Everything else is inconclusive, which is no evidence of fairness. Each row has its own unit.
#
# ## The surest difference, pair by pair

# %%
surest = result.table.sort_values(["p", "d"]).iloc[0]
show.save(bias.slopes(result, surest), Path(out, "slopes"))

# %%
video = bias.worst_pairs(result, surest, count=2)
video.save(Path(out, "worst-pairs"))
video

# %% [markdown]
# ## The report
#
# Departures from the plan come first, then findings, then in what else the groups' images differ.

# %%
print(result.report())

# %% [markdown]
# ## Your own images
#
# Write a manifest with the columns `path, pair_id, group, group_scheme, label_source, licence, consent, subject_id, notes`,
# each pair with one image of each group, and run `svdlab notebook 05-bias -p manifest people.csv`. Labels are given by people:
# svdlab infers none. To measure the response to light, blur or mirroring alone, let svdlab make the pairs:
# `svdlab.study.pairs.make_pairs(["cat", "coffee"], "pairs", kinds=("exposure", "mirror"), licence="CC0", consent="nobody is shown")`.

# %% [markdown]
# ## Answer

# %%
print(result.verdict)

# %% [markdown]
# ## Exercise
#
# What would count as no difference? Choose a margin for `pan_px`, in px/frame, before you look at its interval above; then give it
# in `margins` and see whether any comparison becomes "equivalent within the margin". How many pairs would it take?
#
# ## Limits
#
# - The study compares groups in these images, at these conditions. It shows that the model, its autoencoder or the
#   instruments respond differently, not why; and measures of motion or blur are no measures of harm.
# - Images of two people differ in more than their group: the report lists size, sharpness and light, and knows no more.
# - "Sensitivity to exposure" is the response to exposure and nothing else.
# - Few pairs find only large effects, and fewer than the family of tests needs get no verdict at all.
#
# **Next:** [06-interventions](06-interventions.ipynb) changes what happens inside.
