"""Layer 3: plans, sweeps and what they leave on disk."""
