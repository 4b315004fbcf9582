"""Pictures of clips, sweeps, denoising and motion: arrays, a Clip, a Trace or a DataFrame in, a Figure out.

    >>> from svdlab import show
    >>> show.video(clip)                                             # loops
    >>> show.denoising(tr, frame=4)                                  # columns titled by sigma
    >>> show.sheet(results, rows="motion_bucket_id", columns="fps", note="flow_px")
    >>> show.save(show.flow(clip), "results/flow")                   # .png, .svg, .pdf, and .csv of its data

No model runs here. Every figure says at its foot which checkpoint, conditions and seeds it shows, and carries the
table behind it as `.data`. Small pictures are enlarged by whole factors without smoothing.
"""

from svdlab.show.denoisings import denoising, latents
from svdlab.show.flows import flow, flow_colours, quiver, trajectories, xt_slice
from svdlab.show.forest import forest
from svdlab.show.graphs import camera_path, dose_response, stepwise
from svdlab.show.heat import heat
from svdlab.show.probes import probe
from svdlab.show.provenance import about
from svdlab.show.sheets import filmstrip, sheet
from svdlab.show.style import Figure, save
from svdlab.show.videos import Video, video

__all__ = [
    "Figure",
    "Video",
    "about",
    "camera_path",
    "denoising",
    "dose_response",
    "filmstrip",
    "flow",
    "flow_colours",
    "forest",
    "heat",
    "latents",
    "probe",
    "quiver",
    "save",
    "sheet",
    "stepwise",
    "trajectories",
    "video",
    "xt_slice",
]
