# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · A sweep over the conditioning
#
# **Question:** how do fps, motion bucket and guidance change a clip, and do they act on their own or together?
#
# You will see one plan over three conditions, its clips as contact sheets, one curve for each condition with its interval,
# and a sentence that states each finding. Seeds are shared: every condition uses the same seeds, so that the
# comparison is paired.
#
# **Run time:** about 55 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
image: str = "scene-27"  # a sample's name or a path
fps: list = [6, 12]  # frames per second, as diffusers counts: the UNet sees fps - 1
motion_bucket_id: list = [30, 60, 120]  # how much motion is asked for
max_guidance_scale: list = [1.0, 3.0]  # guidance at the last frame; 1 is none
seeds: list = [0, 1, 2, 3, 4, 5]  # shared by all conditions
num_inference_steps: int = 8  # denoising steps
measure: str = "object_px"  # the measure on the curves: object_px, camera_px, flow_px ...
out: str = "../results/01-conditioning-sweep"  # folder for figures, runs and the table

# %%
from pathlib import Path

import svdlab
from svdlab import show, stats, widgets
from svdlab.study.failures import rates

# %% [markdown]
# ## The plan
#
# One row for each clip. What a plan leaves out keeps diffusers' default. Guidance runs from `min_guidance_scale` (1) at the
# first frame to `max_guidance_scale` at the last, so the first frame is never guided.

# %%
axes = dict(fps=fps, motion_bucket_id=motion_bucket_id, max_guidance_scale=max_guidance_scale, seed=seeds)
plan = svdlab.grid(**axes, num_inference_steps=num_inference_steps)
plan.nunique().rename("values").to_frame().T

# %% [markdown]
# A CPU sweep runs one batch per core; all threads share one copy of the weights. On several GPUs or a cluster, give `svdlab.sweep` an
# `executor`, as the page *Run on a cluster* of the documentation says; nothing else in this notebook changes.

# %%
pipe = svdlab.load_pipeline(checkpoint)
results = svdlab.sweep(pipe, plan, Path(out, "ledger"), image=image)
results.to_parquet(Path(out, "results.parquet"))
f"{len(results)} runs, {(results.status != 'done').sum()} of them not done"

# %% [markdown]
# ## The clips
#
# The last frame of each clip, without guidance and with the most of it; the number under each is the measure.

# %%
unguided = results[results.max_guidance_scale == results.max_guidance_scale.min()]
guided = results[results.max_guidance_scale == results.max_guidance_scale.max()]
layout = dict(rows="motion_bucket_id", columns="fps", note=measure)
show.save(show.sheet(unguided[unguided.seed == plan.seed[0]], **layout), Path(out, "sheet-unguided"))

# %%
show.save(show.sheet(guided[guided.seed == plan.seed[0]], **layout), Path(out, "sheet-guided"))

# %% [markdown]
# ## The curves
#
# Points are runs, thin lines join the runs of one seed, the band is the interval of the mean over seeds.

# %%
show.save(show.dose_response(unguided, x="motion_bucket_id", y=measure, by="fps"), Path(out, "motion-bucket"))

# %%
show.save(show.dose_response(unguided, x="fps", y=measure, by="motion_bucket_id"), Path(out, "fps"))

# %%
largest = results.motion_bucket_id.isin(plan.motion_bucket_id.unique()[-2:])
fastest = results[(results.fps == results.fps.min()) & largest]
show.save(show.dose_response(fastest, x="max_guidance_scale", y=measure, by="motion_bucket_id"), Path(out, "guidance"))

# %% [markdown]
# **How to read them:** if bucket and fps acted only through their ratio, as in the organism's world, then twice the bucket at
# twice the fps would give the same speed: compare the bucket's curves at two fps. Where lines of one seed cross, noise
# decides more than the condition does.
#
# ## Together or apart
#
# The same runs against bucket / fps, in a colour for each fps. Some ratios are there at two fps: bucket 30 at fps 6 is bucket 60
# at fps 12. Where their points agree, and all lie on one line, only the ratio matters.

# %%
ratio = unguided.assign(**{"motion bucket / fps": unguided.motion_bucket_id / unguided.fps})
show.save(show.dose_response(ratio, x="motion bucket / fps", y=measure, by="fps", together=True), Path(out, "ratio"))

# %% [markdown]
# ## What fails
#
# The worst clips by each measure (drift, flicker, blur, cuts ...), with the frame and the region where it shows, and how often
# that happens under each condition.

# %%
show.save(show.failures(results), Path(out, "failures"))

# %%
rates(results)[["kind", "condition", "level", "failed", "clips", "value", "low", "high"]].round(3)

# %% [markdown]
# ## Walk over it
#
# A control for each condition, the clip there, and where its measures lie among all runs; a second pane sets another clip
# beside it. What **Export** writes has a plan with it that makes the same clips again.

# %%
walk = widgets.explore(results, pipe=pipe, y=measure, out=Path(out, "exports"))
walk

# %% [markdown]
# ## Answer

# %%
for condition in ("motion_bucket_id", "fps", "max_guidance_scale"):
    if min(plan[condition].nunique(), plan.seed.nunique()) < 2:
        continue  # a trend needs two levels and two seeds
    print(stats.dose_response(results, condition, measure).sentence)

# %%
by_ratio = ratio.pivot_table(index=["motion bucket / fps", "seed"], columns="fps", values=measure).dropna()
if len(by_ratio) and by_ratio.shape[1] > 1:
    low, high = min(by_ratio), max(by_ratio)
    apart = stats.mean_interval((by_ratio[high] - by_ratio[low]).groupby("seed").mean())
    print(f"At the same bucket / fps, {measure} at fps {high} minus that at fps {low} is {apart}: 0 if only the ratio counts.")

# %% [markdown]
# ## Exercise
#
# Does guidance change the speed as much at a low bucket as at a high one? Look at the third curve first, then run a plan with
# `max_guidance_scale=[1.0, 2.0, 3.0, 4.0]` at buckets 30 and 120 and one fps.
#
# ## Limits
#
# - One image: what holds for it need not hold for others. Put several names in the plan, as `image=[...]`, to see.
# - Intervals are over a few seeds, and say how well the mean over seeds is known, not how different images are.
# - On SVD, buckets above 255 and fps outside 6 to 31 are outside what Stability's own script calls usual; svdlab warns.
# - An interval of guidance scales by frame is one choice of many: `guidance_curve` and `guidance_interval` are conditions too.
#
# **Next:** [02-denoising-trace](02-denoising-trace.ipynb) looks inside one clip, step by step.
