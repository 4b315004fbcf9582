"""A checkpoint with random weights and small frames, for tests of what does not depend on what a model has learned."""

from __future__ import annotations

import json
from pathlib import Path

SIDE, FRAMES = 32, 4


def save_checkpoint(folder: Path, seed: int = 1) -> Path:
    """In diffusers' layout, with the frame size and label that svdlab reads beside it."""
    from svdlab.organism.model import build

    pipe = build(seed)
    pipe.unet.register_to_config(num_frames=FRAMES)
    pipe.save_pretrained(folder)
    (folder / "svdlab.json").write_text(json.dumps({"height": SIDE, "width": SIDE, "label": "random weights"}))
    return folder
