"""Limitations of a model, measured: one probe for each sentence of its card.

    >>> from svdlab import probes
    >>> result = probes.run("stillness", pipe, "results/limitations")
    >>> print(result.verdict)
    >>> result.figure()
    >>> results = probes.run_all(pipe, "results/limitations", quick=True)

Each probe first audits its instrument on cases whose answer is known; where that fails it gives numbers and no verdict.
Clips lie in one ledger, so what was made is not made again. `svdlab.probes.card` writes all results together.
"""

from svdlab.probes import card
from svdlab.probes.base import Check, Cost, Panel, Probe, ProbeResult, Shown, Study
from svdlab.probes.findings import Finding
from svdlab.probes.running import PROBES, estimate, find, run, run_all
from svdlab.probes.stimuli import Stimuli

__all__ = [
    "PROBES",
    "Check",
    "Cost",
    "Finding",
    "Panel",
    "Probe",
    "ProbeResult",
    "Shown",
    "Stimuli",
    "Study",
    "card",
    "estimate",
    "find",
    "run",
    "run_all",
]
