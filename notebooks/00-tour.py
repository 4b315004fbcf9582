# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The tour
#
# **Question:** what happens between one image and one clip of Stable Video Diffusion, and what do its knobs really do?
#
# You will see a photograph become a clip, the clip emerging step by step from noise, what moves in
# it and how fast, and a sweep over two of the conditions with a curve of their effect.
#
# **Run time:** about 50 s on two cores, on the organism.
#
# All of it runs on the **model organism**: a tiny SVD, made of diffusers' own classes and trained on a drawn world
# whose laws are known. It is not SVD, and every figure is labelled so. Name another `checkpoint` below and the same cells run on it.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
photograph: str = "astronaut"  # what moves: any image, as a sample's name or a path
scene: str = "scene-27"  # a first frame from the organism's world: scene-0, scene-1, ...
fps: int = 7  # frames per second, as diffusers counts: the UNet sees fps - 1
motion_bucket_id: int = 100  # how much motion is asked for, 0 to 255
max_guidance_scale: float = 1.0  # guidance at the last frame: 1 is none, diffusers' default is 3
num_inference_steps: int = 25  # denoising steps
sweep_fps: list = [6, 12]  # the sweep's columns
sweep_motion_bucket_id: list = [30, 75, 120]  # the sweep's rows
sweep_steps: int = 10  # denoising steps in the sweep
seeds: list = [0, 1, 2]  # for each point of the sweep
out: str = "../results/00-tour"  # folder for figures, videos, runs and the table

# %%
from pathlib import Path

import numpy as np
import svdlab
from svdlab import motion, show, stats, widgets
from svdlab.organism import world
from svdlab.pipeline.images import open_image, prepare_image

# %% [markdown]
# ## One clip
#
# Any image will do: a sample's name, a path, an array. The organism never saw a photograph in training, but drawn images with the
# statistics of natural ones. In its world an image without a mark is panned, and so is this. `trace` keeps what is computed
# at every step, without changing a bit of it.

# %%
pipe = svdlab.load_pipeline(checkpoint)
asked = dict(fps=fps, motion_bucket_id=motion_bucket_id, max_guidance_scale=max_guidance_scale)
conditions = svdlab.Conditions(**asked, num_inference_steps=num_inference_steps)
with svdlab.trace(pipe) as tr:
    clip = svdlab.generate(pipe, photograph, conditions, seed=0)

# %%
video = show.video(clip)
video.save(Path(out, "photograph"))
video

# %%
show.save(show.filmstrip(clip, given=True), Path(out, "photograph"))

# %% [markdown]
# **How to read it:** the first column is the image that was given. The camera pans; what comes into view at the border
# is the model's invention. Which way a pan goes is decided by the noise: another `seed` may pan to the other side.
#
# ## How the clip is made
#
# Each column is one frame of the clip that the model would settle for if it stopped there: its *denoised estimate*, before a step at
# noise level sigma. Above as colours, by one linear map from the latents; below through the real decoder.

# %%
last = len(tr) - 1
steps = sorted({0, last // 6, last // 3, last // 2, 2 * last // 3, 5 * last // 6, last})
show.save(show.denoising(tr, frame=clip.frames.shape[0] // 2, steps=steps), Path(out, "denoising-latents"))

# %%
frame = clip.frames.shape[0] // 2
decoded = tr.decode(pipe, steps=steps, frames=[frame])
show.save(show.denoising(tr, frame=frame, steps=steps, decoded=decoded), Path(out, "denoising"))

# %% [markdown]
# **How to read it:** at high sigma the estimate is an average over everything that could follow the image, so it is
# blurred where the future is open. Look for the column from which on a thing no longer moves: there it was decided.
#
# ## What moves
#
# Optical flow is each pixel's displacement to the next frame; from it `motion` separates the camera's motion from the
# subject's, in px/frame.

# %%
show.save(show.flow(clip), Path(out, "flow"))

# %%
summary = motion.summary(clip.frames, playback_fps=clip.playback_fps)
{name: summary[name] for name in ("camera", "camera_px", "pan_px", "zoom_pct", "object_px", "object_area", "frozen")}

# %% [markdown]
# ## What the knobs do
#
# A plan is a table with a row for each clip to make; `grid` writes one. Each run is filed in a folder of its own, so that a
# second execution of this notebook only makes what is missing. Guidance is off here: it exaggerates whatever the image
# suggests, and the question is what fps and motion bucket do.

# %%
axes = dict(fps=sweep_fps, motion_bucket_id=sweep_motion_bucket_id, seed=seeds)
plan = svdlab.grid(**axes, max_guidance_scale=1.0, num_inference_steps=sweep_steps)
results = svdlab.sweep(pipe, plan, Path(out, "ledger"), image=photograph)
results.to_parquet(Path(out, "results.parquet"))
results[["fps", "motion_bucket_id", "seed", "camera", "object_px", "camera_px"]].head()

# %%
one_seed = results[results.seed == seeds[0]]
show.save(show.sheet(one_seed, rows="motion_bucket_id", columns="fps", note="camera_px"), Path(out, "sweep"))

# %%
video = show.video(one_seed[one_seed.fps == sweep_fps[0]], title=f"Motion buckets at fps {sweep_fps[0]}")
video.save(Path(out, "sweep"))
video

# %%
show.save(show.dose_response(results, x="motion_bucket_id", y="camera_px", by="fps"), Path(out, "dose-response"))

# %% [markdown]
# **How to read it:** the world that the organism was trained on moves by `0.14 * motion_bucket_id / fps` px/frame. So
# within a panel the curve should rise, and from panel to panel it should lie lower, since a higher frame rate cuts the same
# motion into smaller steps. What SVD itself does is for you to find out.
#
# ## What an image announces
#
# In the organism's world a mark on a coloured sprite announces what will move: a white eye at its rim, that the sprite moves towards
# the eye; a light dot in its centre, that the camera zooms in; a dark one, that it zooms out. No mark: a pan. Below, a scene with an
# eye, a drawn natural ground with the dot, and the photograph with that sprite laid on it.

# %%
announces = dict(motion="zoom", direction="in", ground="leaves", background="light", shape="disc", sprites=1, pattern="none")
drawn = world.scenes(1, seed=7, edition=2, hue=0.6, radius=9, x=50, y=50, **announces)
photo = np.asarray(prepare_image(open_image(photograph), height=world.SIZE, width=world.SIZE)) / 255
marked = np.where(drawn.mask[0, 0][..., None], drawn.video[0, 0], photo)

# %%
starts = {"an eye": svdlab.sample_image(scene), "a light dot": drawn.video[0, 0], "the dot, on a photograph": marked}
clips = {name: svdlab.generate(pipe, image, conditions, seed=0) for name, image in starts.items()}
show.video(clips).save(Path(out, "announced"))
show.save(show.filmstrip(clips, title="What an image announces: an object's motion, and two zooms"), Path(out, "announced"))

# %%
{name: motion.summary(clip.frames)["camera"] for name, clip in clips.items()}

# %% [markdown]
# ## Try it
#
# The same conditions as knobs: **Generate** makes a clip while you watch its estimate sharpen, **Cancel** stops it before the
# next step. Tries can be compared, and `knobs.to_plan()` has them as a plan for a sweep. Where no widgets run, this cell
# shows the image that it starts from.

# %%
knobs = widgets.live(pipe, photograph, conditions, out=Path(out, "exports"))
knobs

# %% [markdown]
# ## Answer

# %%
for condition in ("motion_bucket_id", "fps"):
    if min(results[condition].nunique(), results.seed.nunique()) < 2:
        continue  # a trend needs two levels and two seeds
    print(stats.dose_response(results, condition, "camera_px").sentence)

# %% [markdown]
# So the clip is found step by step, from noise to an estimate that no longer changes; the image sets what moves, the two conditions
# set how fast.
#
# ## Exercise
#
# The motion bucket doubles: by how much must fps rise so that the speed stays? Predict it from the curves, then run the sweep
# again with `sweep_fps=[6, 12]` and `sweep_motion_bucket_id=[60, 120]`, and compare the two clips on the diagonal.
#
# ## Limits
#
# - The organism is 64x64 px and eight frames, so speeds here are in its pixels. SVD knows none of these marks.
# - With `max_guidance_scale=3.0`, diffusers' default, the organism's late frames gain contrast and lose detail.
# - One image and a few seeds show that the knobs work, not how well. `svdlab organism verify` measures the laws with intervals.
# - fps is a trap: `fps=7` here is `fps_id=6` in Stability's script, and changes nothing about how fast a player plays.
#
# **Next:** [01-conditioning-sweep](01-conditioning-sweep.ipynb) puts guidance beside fps and motion bucket.
