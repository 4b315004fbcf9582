"""Widgets for JupyterLab: walk over a sweep, step through a denoising, try conditions live, play clips in step.

    >>> from svdlab import widgets
    >>> widgets.explore(results)                     # a sweep
    >>> widgets.step_through(tr, pipe)               # a trace
    >>> widgets.live(pipe, image)                    # conditions as knobs
    >>> widgets.compare(results)                     # clips in step
    >>> widgets.verdicts(svdlab.probes.run_all(pipe, out))  # doctest: +SKIP

Each is also a figure: papermill's copies, nbconvert and viewers that run no widgets show its PNG. Each has a button that
exports what is on screen, with a plan that makes it again.
"""

from svdlab.widgets.compare import Comparison as compare
from svdlab.widgets.explore import Explorer as explore
from svdlab.widgets.live import Live as live
from svdlab.widgets.step_through import Stepper as step_through
from svdlab.widgets.verdicts import Verdicts as verdicts

__all__ = ["compare", "explore", "live", "step_through", "verdicts"]
