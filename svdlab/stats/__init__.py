"""Layer 1: statistics by name: intervals, tests, dose-response."""

from svdlab.stats.effects import *  # noqa: F403
from svdlab.stats.intervals import *  # noqa: F403
