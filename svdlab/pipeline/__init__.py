"""Layer 2: the SVD pipeline: conditions, images, checkpoints, the sampler, and hooks into it."""
