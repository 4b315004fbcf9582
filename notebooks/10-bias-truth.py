# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Bias: planted truth and symmetry
#
# **Question:** does the study of [05-bias](05-bias.ipynb) find the effects that are there and clear what is not, and is left like right?
#
# You will see the study's findings beside what was planted in the organism's world, then a test of symmetry that needs no
# pairs: images and their mirror images, the noise mirrored too.
#
# **Run time:** about 75 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
pairs: int = 12  # planted pairs in each of three schemes
seeds: list = [0]  # for each image; averaged before images are compared
measures: list = ["object_px", "pan_px"]  # what is compared
speed_margin: float = 0.3  # px/frame: what counts as no difference in subject speed, set before the first clip
num_inference_steps: int = 8  # denoising steps
out: str = "../results/10-bias-truth"  # folder for figures, clips and tables

# %%
from pathlib import Path

import pandas as pd
import svdlab
from svdlab import show
from svdlab.probes import bias
from svdlab.probes.bias import planted, symmetry

# %% [markdown]
# ## What was planted
#
# Warm sprites move at half the speed of cool ones; the camera pans right three times as often as left; a square and a disc
# move alike. `planted` is the difference that these laws give; how well the organism learned them is in its card.

# %%
pipe = svdlab.load_pipeline(checkpoint)
planted.world_pairs(Path(out, "images"), hue=pairs, mirror=pairs, shape=pairs)
laws = pd.DataFrame([vars(law) for law in planted.PLANTED]).rename(columns={"effect": "planted"})
laws

# %% [markdown]
# ## What was found

# %%
conditions = planted.CONDITIONS.replace(num_inference_steps=num_inference_steps)
options = dict(measures=measures, margins=dict(object_px=speed_margin), seeds=seeds, conditions=conditions)
result = bias.run(pipe, bias.Design(Path(out, "images", "manifest.csv"), **options), Path(out, "study"))
show.save(result.figure(), Path(out, "forest"))

# %%
found = result.table.merge(laws, on=["scheme", "measure"])
found["within"] = (found.low <= found.planted) & (found.planted <= found.high)
found[["scheme", "measure", "planted", "value", "low", "high", "within", "q", "verdict"]].round(3)

# %% [markdown]
# ## Is left like right?
#
# With u the camera's motion for an image and u' for its mirror image, each in its own frame, (u + u') / 2 is 0 for a model
# without a preferred direction, whatever the images show.

# %%
images = result.manifest.query("group_scheme == 'mirror' and group == 'original'").file.to_list()
how = dict(flips=["left_right"], seeds=seeds, conditions=conditions)
both = symmetry.run(pipe, images, Path(out, "study"), **how)
show.save(show.forest(both.table, of=both.clips, title="Departure from left-right symmetry"), Path(out, "symmetry"))

# %%
both.table[["flip", "label", "n", "value", "low", "high", "q", "verdict"]].round(3)

# %%
both.errors[["equivariance", "autoencoder", "seeds"]].mean().round(4)

# %% [markdown]
# `equivariance` is how far the mirrored clip is from the mirror image of the clip (mean absolute difference, 0 to 1),
# `autoencoder` how much of that the autoencoder alone brings, `seeds` how far apart two seeds of one image are.
#
# ## Answer

# %%
for row in found.itertuples():
    interval = f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
    print(f"{row.scheme}, {row.measure}: planted {row.planted:.2f}, found {interval}: {row.verdict}.")
for row in both.table.itertuples():
    print(f"Mirrored, {row.label}: {row.value:.2f} ({row.low:.2f} to {row.high:.2f}): {row.verdict}.")

# %% [markdown]
# ## Exercise
#
# Which of the planted effects would six pairs have found? Run this with `pairs=6` and compare verdicts and intervals; then say how many
# pairs a study of your own images would need for an effect half as large.
#
# ## Limits
#
# - A study that finds planted effects can still miss others: this shows that the pairing, the measures and the correction work.
# - The pairs are of the organism's world. On another checkpoint they are images like any others, and `planted` is no longer the truth.
# - A preferred direction may be right, where the world has one; symmetry is a question, not a norm.
#
# Back to the start: [00-tour](00-tour.ipynb).
