"""The model organism: its world, its ground-truth trackers, its weights and their card."""

from pathlib import Path

LEAKY = Path(__file__).parent / "weights" / "leaky.safetensors"  # a LoRA of the organism that leaks the image, for notebook 08
