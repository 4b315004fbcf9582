# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · A trace of the denoising
#
# **Question:** what is decided when? At which noise level does the model settle on the image, and at which on the motion?
#
# You will see the estimate that the model would stop at after each step, the latents behind it, the guidance pressure at
# each step and frame, which frames look at the first one, and the step from which the final motion can be predicted.
#
# **Run time:** about 50 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
image: str = "scene-27"  # a sample's name or a path
fps: int = 7  # frames per second, as diffusers counts: the UNet sees fps - 1
motion_bucket_id: int = 120  # how much motion is asked for
seeds: list = [0, 1, 2]  # each gives a clip and a curve of its own
num_inference_steps: int = 20  # denoising steps
agreement: float = 0.9  # flow counts as settled from the step on where it agrees that well with the clip's, up to 1
out: str = "../results/02-denoising-trace"  # folder for figures and traces

# %%
from pathlib import Path

import pandas as pd
import svdlab
from svdlab import show, widgets
from svdlab.study.lock_in import first_frame, lock_in, locked

# %% [markdown]
# ## One clip, with everything that was computed
#
# `keep` names what is kept of each step. The clip is the same, bit for bit, as without the trace.

# %%
pipe = svdlab.load_pipeline(checkpoint)
conditions = svdlab.Conditions(fps=fps, motion_bucket_id=motion_bucket_id, num_inference_steps=num_inference_steps)
with svdlab.trace(pipe, keep=("latents", "denoised", "guidance_pressure"), attention="temporal") as tr:
    clip = svdlab.generate(pipe, image, conditions, seed=seeds[0])
tr.save(Path(out, "trace.safetensors"))
tr.to_xarray()

# %%
middle = clip.frames.shape[0] // 2
videos = tr.decode(pipe)
show.save(show.denoising(tr, frame=[0, middle], decoded=videos), Path(out, "denoised"))

# %% [markdown]
# **How to read it:** columns run from strong noise (large sigma) to none. Frame 0 is given by the image, and is there
# early. The middle frame has to be invented: while the noise is strong, its estimate is an average over possible futures.
#
# ## Step by step
#
# The same by hand: any step, any frame, the latents beside the estimate. The arrow keys move the slider that has the focus.

# %%
steps = widgets.step_through(tr, decoded=videos, out=Path(out, "exports"))
steps

# %% [markdown]
# ## The latents behind it
#
# Three principal components as red, green and blue: first of the noisy latents, then of the denoised estimates.

# %%
show.save(show.latents(tr, frame=middle, mode="pca"), Path(out, "latents"))

# %%
show.save(show.latents(tr, frame=middle, mode="pca", name="denoised"), Path(out, "latents-denoised"))

# %% [markdown]
# ## Guidance pressure
#
# The distance between the UNet's output with the image and without it. Guidance multiplies that difference, by more in
# later frames: where it is small, guidance has nothing to multiply.

# %%
pressure = pd.DataFrame(tr["guidance_pressure"].mean(dim=(2, 3)).numpy(), index=tr.sigmas)
labels = dict(key="|cond - uncond|, mean over places", rows="sigma before the step", columns="frame")
show.save(show.heat(pressure, tr, title="Guidance pressure by step and frame", **labels), Path(out, "guidance-pressure"))

# %% [markdown]
# ## Who looks at the first frame
#
# In temporal attention each frame weighs all frames. With equal weights the first would get one part in as many as there are
# frames: that is white. Only the conditional half is shown.

# %%
labels = dict(key="mean weight", rows="block", columns="sigma before the step", centre=1 / len(clip.frames))
title = "Temporal attention to the first frame, by block and step"
show.save(show.heat(first_frame(tr), tr, title=title, **labels), Path(out, "first-frame"))

# %% [markdown]
# The whole maps, of all frames on all frames:

# %%
show.save(show.attention(tr), Path(out, "attention"))

# %% [markdown]
# ## Lock-in of image and motion
#
# For every step the estimate is decoded and compared with the finished clip: its frames by the correlation of their pixels, its
# motion by the cosine between the optical flows, 1 where they agree in direction and proportion, 0 where they have nothing in
# common. Image or motion is *locked in* at the first step from which on the agreement stays above the threshold.

# %%
agreements = lock_in(pipe, image, conditions, seeds=seeds)
show.save(show.lock_in(agreements, threshold=agreement), Path(out, "lock-in"))

# %%
settled = locked(agreements, agreement)
settled

# %% [markdown]
# ## How many steps are enough
#
# More steps follow the same path more closely, so the clip of many Euler steps is the one to compare with. The error is the root
# mean square difference of the frames, in levels of 255: below 2 it is hard to see. Heun's method calls the UNet twice in a step.

# %%
samplers = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "EDMDPMSolverMultistepScheduler"]
plan = svdlab.grid(scheduler=samplers, image=image, seed=seeds[0], fps=fps, motion_bucket_id=motion_bucket_id)
tried = sorted({max(1, num_inference_steps // 4), max(1, num_inference_steps // 2), num_inference_steps})
enough = svdlab.steps_needed(pipe, plan, steps=tried, reference=3 * num_inference_steps)
title = f"Error in levels of 255, against a clip of {3 * num_inference_steps} Euler steps"
labels = dict(x="num_inference_steps", y="error", by="scheduler", title=title)
show.save(show.dose_response(enough, **labels), Path(out, "steps"))

# %%
enough.pivot(index="num_inference_steps", columns="scheduler", values="error").round(2)

# %% [markdown]
# ## Answer

# %%
middle = settled[["image_sigma", "motion_sigma"]].median()
print(f"The image is settled from sigma {middle.image_sigma:.3g} on, the motion from {middle.motion_sigma:.3g} on,")
print(f"medians of {len(settled)} seeds, where agreement stays above {agreement:g}.")

# %% [markdown]
# ## Exercise
#
# Is the motion of a slow clip settled later? Predict it, then run this notebook with `motion_bucket_id=40`, and compare the two
# tables of lock-in.
#
# ## Limits
#
# - An estimate is what the model would settle for, blurred where it hesitates; flow of a blurred image underrates motion.
# - Agreement is with the clip's own flow: a clip that hardly moves has hardly any flow to agree with.
# - That the motion can be read from a step on does not say that it could not be changed any more: [06-interventions](06-interventions.ipynb)
#   tries.
#
# **Next:** [03-motion](03-motion.ipynb) measures what moves.
