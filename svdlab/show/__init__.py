"""Figures and videos of clips, sweeps, denoising and motion: arrays, a Clip, a Trace or a DataFrame in, a Figure out.

    >>> from svdlab import show
    >>> show.video(clip)                                             # loops
    >>> show.denoising(tr, frame=4)                                  # columns titled by sigma
    >>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="object_px")
    >>> fig = show.save(show.flow(clip), "results/flow")             # .png, .pdf, and .csv of its data

No model runs here. Every figure names at its foot the checkpoint, conditions and seeds that it shows, and carries the
table behind it as `.data`. Small images are enlarged by whole factors without smoothing.
"""

from svdlab.show.clips import Video, denoising, filmstrip, latents, sheet, video
from svdlab.show.failures import failures
from svdlab.show.figure import Figure, for_paper, save
from svdlab.show.inside import attention, lock_in
from svdlab.show.labels import about, block
from svdlab.show.motion import camera_path, flow, flow_colours, stepwise, trajectories, xt_slice
from svdlab.show.tables import dose_response, forest, heat

__all__ = [
    "Figure",
    "Video",
    "about",
    "attention",
    "block",
    "camera_path",
    "denoising",
    "dose_response",
    "failures",
    "filmstrip",
    "flow",
    "flow_colours",
    "for_paper",
    "forest",
    "heat",
    "latents",
    "lock_in",
    "save",
    "sheet",
    "stepwise",
    "trajectories",
    "video",
    "xt_slice",
]
