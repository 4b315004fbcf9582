"""Layer 1: arrays in, numbers with units out. Nothing here knows a model."""
