# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Interventions
#
# **Question:** which parts of the model, and which steps, carry what a condition does?
#
# Observation shows correlation; intervention shows causation. You will see conditions swapped in mid-run, temporal
# attention silenced block by block, and the two paths by which the image enters separated.
#
# **Run time:** about 55 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
image: str = "scene-27"  # a sample's name or a path
other_image: str = "scene-4"  # another image, to be swapped in
fps: int = 7  # frames per second, as diffusers counts: the UNet sees fps - 1
motion_bucket_id: int = 120  # how much motion is asked for
other_fps: int = 14  # swapped in
other_motion_bucket_id: int = 20  # swapped in
seeds: list = [0, 1, 2, 3, 4, 5]  # for the ablations
num_inference_steps: int = 8  # denoising steps
out: str = "../results/06-interventions"  # folder for figures

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import svdlab
from svdlab import edits, motion, show, stats, widgets

# %% [markdown]
# ## Branch and swap
#
# A trace holds the latents before each step. `transplant` goes on from every one of them with a condition changed: from
# step 0 the change has the whole run to act, later only what is left of it. Nothing that was computed is computed again.

# %%
pipe = svdlab.load_pipeline(checkpoint)
conditions = svdlab.Conditions(fps=fps, motion_bucket_id=motion_bucket_id, num_inference_steps=num_inference_steps)
with svdlab.trace(pipe) as tr:
    clip = svdlab.generate(pipe, image, conditions, seed=seeds[0])

# %%
swaps = {
    f"fps {other_fps}": dict(fps=other_fps),
    f"motion bucket {other_motion_bucket_id}": dict(motion_bucket_id=other_motion_bucket_id),
    "no guidance": dict(max_guidance_scale=1.0),
    "other image": dict(image=other_image),
}
branches = {name: svdlab.transplant(pipe, tr, **change) for name, change in swaps.items()}

# %% [markdown]
# How much of a change arrives: the distance of each branch from the original clip, as a share of the distance that the
# change makes from the first step on.

# %%
distance = {n: [np.abs(b.frames - clip.frames).mean() for b in some.values()] for n, some in branches.items()}
table = pd.DataFrame(distance, index=range(num_inference_steps)).T
share = table.div(table[0], axis=0)
labels = dict(key="share of the change", rows="swapped in", columns="from step")
labels["title"] = "What still arrives of a change, by the step from which it holds"
show.save(show.heat(share, clip, **labels), Path(out, "branch-and-swap"))

# %%
speed = {n: [motion.summary(b.frames)["object_px"] for b in some.values()] for n, some in branches.items()}
moved = pd.DataFrame(speed, index=range(num_inference_steps)).T
labels = dict(key="px/frame", rows="swapped in", columns="from step")
labels["title"] = "How fast the subject moves, by the step from which the change holds"
show.save(show.heat(moved, clip, **labels), Path(out, "branch-and-swap-speed"))

# %% [markdown]
# **How to read it:** a row that falls early belongs to a condition that acts only at high noise levels. A row that stays high
# until late belongs to a condition that acts at all levels.
#
# ## Silencing temporal attention, block by block
#
# Frames see each other in temporal attention and in temporal convolutions. Here one attention after the other adds nothing
# (the rest of its block still does), and the motion of the clip is measured. Guidance is off, so that it cannot
# compensate for the ablation.

# %%
blocks = svdlab.module_names(pipe, "unet*.attentions.?")
blocks

# %%
unguided, rows = conditions.replace(max_guidance_scale=1.0), []
for silenced in ["(none)", *blocks, "unet"]:
    scale, block = (1.0, "unet") if silenced == "(none)" else (0.0, silenced)
    for seed in seeds:
        with edits.silence_temporal_attention(pipe, block, scale=scale):
            ablated = svdlab.generate(pipe, image, unguided, seed=seed)
        rows.append(dict(silenced=silenced, seed=seed, **motion.summary(ablated.frames)))

# %%
about = dict(checkpoint=pipe.source.checkpoint, label=pipe.source.label, fps=fps, motion_bucket_id=motion_bucket_id)
ablations = pd.DataFrame(rows).assign(**about, stimulus=[row["seed"] for row in rows])
by_block = ablations.groupby("silenced", sort=False)
effects = [stats.mean(name, name, of, "object_px", unit="px/frame") for name, of in by_block]
title = "Speed of the subject with temporal attention silenced, mean over seeds"
show.save(show.forest(effects, of=ablations, title=title), Path(out, "ablation"))

# %% [markdown]
# ## Embedding or latents
#
# The image enters twice: as an embedding, by cross-attention, and as latents beside the noise. Each path is given another
# image. If the clip follows one of them alone, the other has no effect.

# %%
cases = [dict(latents=a, embedding=b) for a in (image, other_image) for b in (image, other_image)]
clips = []
for case in cases:
    with edits.image_embedding(pipe, case["embedding"]):
        clips.append(svdlab.generate(pipe, case["latents"], conditions, seed=seeds[0]))

# %%
table = pd.DataFrame(cases).assign(**about, status="done")
labels = dict(rows="latents", columns="embedding", title="Last frame, by whose latents and embedding")
show.save(show.sheet(table, clips=clips, **labels), Path(out, "embedding-or-latents"))

# %% [markdown]
# ## Side by side
#
# The original and the clips with a condition swapped in before the first step, synchronised: **difference** shows where they differ.

# %%
starts = {"original": clip} | {name: some[0] for name, some in branches.items()}
widgets.compare(starts, out=Path(out, "exports"))

# %% [markdown]
# ## Answer

# %%
lost = share.lt(0.5).idxmax(axis=1).where(share.lt(0.5).any(axis=1), "none")
print(f"Of {num_inference_steps} steps, a change loses half of its effect if it is made from this one on:")
print(", ".join(f"{name}: {step}" for name, step in lost.items()))
slowest = min(effects[1:-1], key=lambda effect: effect.value)
for effect in (effects[0], slowest, effects[-1]):
    interval = f" ({effect.low:.2f} to {effect.high:.2f})" if effect.n > 1 else ""
    print(f"Speed with temporal attention silenced in {effect.what}: {effect.value:.2f}{interval} px/frame.")

# %%
apart = {name: np.abs(clips[i].frames - clips[0].frames).mean() for name, i in (("embedding", 1), ("latents", 2))}
print("Another image changes the clip (mean absolute difference of the frames, 0 to 1):")
print(f"in the latents by {apart['latents']:.3f}, in the embedding by {apart['embedding']:.3f}.")

# %% [markdown]
# ## Exercise
#
# Does guidance hide an ablation? Run the ablation again with `max_guidance_scale=3.0`, and compare the slowest block with that above.
#
# ## Limits
#
# - A model with a silenced block was never trained: a failure may be caused by the ablation, not by the missing function.
# - Distances between frames count every pixel alike; a small object that moves far may weigh less than a slight change of the ground.
# - One image and a few seeds show what can happen, not how often.
#
# **Next:** [07-compare-checkpoints](07-compare-checkpoints.ipynb) asks the same of two checkpoints.
