"""Layer 1: statistics by name: intervals, tests, dose-response."""

from svdlab.stats.intervals import *  # noqa: F403
