# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Two checkpoints, one plan
#
# **Question:** SVD 1.1 was fine-tuned from SVD-XT at one fixed condition (fps_id 6, motion bucket 127), so that its clips would
# vary less, and its card says that elsewhere it "may vary compared to SVD 1.0". Does it, where, and by how much?
#
# You will see the same images and the same seeds through two checkpoints, their clips side by side, and their differences
# with intervals: in speed, in its spread over seeds, and in its response to the motion bucket.
#
# **Run time:** about 55 s on two cores, on the organism.
#
# Here the pair is `organism` and `organism-fixed`, which was fine-tuned from it in the same way. On a GPU, give
# `SVD_XT` and `SVD_1_1`.

# %% tags=["parameters"]
first: str = "organism"  # the base: a checkpoint's name, a hub id, a local folder
second: str = "organism-fixed"  # what was fine-tuned from it
images: list = ["scene-26", "scene-27", "scene-31", "scene-38", "scene-60", "scene-67"]  # 6 or more
fps: list = [7, 12]  # as diffusers counts; the fine-tuning's fps_id 6 is fps 7
motion_bucket_id: list = [60, 127]  # the fine-tuning's bucket is 127
seeds: list = [0, 1]  # for each image and condition, the same for both checkpoints
measure: str = "object_px"  # the measure that is compared: object_px, camera_px, flow_px ...
num_inference_steps: int = 6  # denoising steps
out: str = "../results/07-compare-checkpoints"  # folder for figures, runs and tables

# %%
from pathlib import Path

import pandas as pd
import svdlab
from svdlab import show
from svdlab.study.compare import compare, slope_against

# %% [markdown]
# ## One plan for both
#
# Every row is made by each checkpoint from the same image and the same noise. Guidance is left out (1 throughout): it
# amplifies a model's preferences, and would be a confound.

# %%
axes = dict(image=images, fps=fps, motion_bucket_id=motion_bucket_id, seed=seeds)
plan = svdlab.grid(**axes, max_guidance_scale=[1.0], num_inference_steps=[num_inference_steps])
tables = {}
for name in (first, second):
    pipe = svdlab.load_pipeline(name)
    tables[name] = svdlab.sweep(pipe, plan, Path(out, "ledger", Path(name).name))
    tables[name].to_parquet(Path(out, f"{Path(name).name}.parquet"))

# %% [markdown]
# ## Side by side
#
# One image and one seed: the last frame at each condition.

# %%
for name, table in tables.items():
    one = table[(table.image == images[0]) & (table.seed == seeds[0])]
    labels = dict(rows="motion_bucket_id", columns="fps", note=measure, title=f"{name}: last frames")
    display(show.save(show.sheet(one, **labels), Path(out, f"sheet-{Path(name).name}")))

# %% [markdown]
# ## Speed
#
# Each row is a condition. A point is the mean over images of the difference between the two checkpoints, each image
# first averaged over its seeds; the line is its 95 % interval.

# %%
speed = compare(tables, [measure], by=["fps", "motion_bucket_id"])
labels = dict(by="measure", of=pipe.source.label, title=f"{measure}: {second} minus {first}")
show.save(show.forest(speed, **labels), Path(out, "speed"))

# %%
speed[["fps", "motion_bucket_id", "first", "second", "value", "low", "high", "q", "n", "verdict"]].round(3)

# %% [markdown]
# ## Consistency
#
# The same for the spread over seeds: here, consistency means that the clips of one image have the same speed.

# %%
spread = compare(tables, [measure], by=["fps", "motion_bucket_id"], within="spread")
labels["title"] = f"Spread of {measure} over seeds: {second} minus {first}"
show.save(show.forest(spread, **labels), Path(out, "spread"))

# %% [markdown]
# ## Response to the motion bucket
#
# The slope of speed on motion bucket within each image: a checkpoint that ignores the bucket has a slope of zero.

# %%
slope = compare(tables, [measure], by=["fps"], within=slope_against("motion_bucket_id"))
slope[["fps", "first", "second", "value", "low", "high", "q", "n", "verdict"]].round(4)

# %% [markdown]
# ## In one figure
#
# The fine-tuning's own condition is fps 7 (fps_id 6) and bucket 127; every other row is away from it.

# %%
found = pd.concat([speed, spread, slope], ignore_index=True).assign(measure=lambda t: f"{measure}, " + t["within"].astype(str))
labels["title"] = f"{second} minus {first}: {measure}, its spread over seeds, and its slope on the motion bucket"
show.save(show.forest(found, **labels), Path(out, "conclusion"))

# %% [markdown]
# **How to read it:** "inconclusive" is no evidence of a difference, which is not the same as evidence of none: for that, give
# `compare` a margin that you fixed beforehand (`margins={"object_px": 0.2}`), and it tests for equivalence. A row says
# "effect" only after correction for all rows of its table (Benjamini and Hochberg).

# %% [markdown]
# ## Answer

# %%
for what, table in (("speed", speed), ("spread over seeds", spread), ("slope on the motion bucket", slope)):
    hits = table[table.verdict == "effect"]
    places = hits[hits.columns.intersection(["fps", "motion_bucket_id", "value"])].to_dict("records")
    words = [", ".join(f"{name} {value:.3g}" for name, value in place.items()) for place in places]
    print(f"{second} minus {first}, {what}: an effect in {len(hits)} of {len(table)} conditions. {'; '.join(words)}")

# %% [markdown]
# ## Exercise
#
# Is a difference that is inconclusive here absent, or only not yet found? Fix a margin for the speed, give it to `compare`, and add
# images until each condition is either an effect or equivalent within it.
#
# ## Limits
#
# - Intervals are over the images above, and say nothing of other kinds of images.
# - What the fine-tuning of the organism did need not be what Stability's did: this pair shows that the comparison finds the
#   differences that exist, and their size. Results on the organism say nothing about SVD 1.1.
# - The two share their noise, but a fine-tuned model may make another video of the same noise; pairing removes the image's
#   share of the variance, and only a part of the noise's.
# - Few steps and no guidance keep this short. For a claim, use 25 steps or more, and the conditions that you care about.
#
# **Next:** [08-image-leakage](08-image-leakage.ipynb) asks whether a model copies its image where it should predict motion.
