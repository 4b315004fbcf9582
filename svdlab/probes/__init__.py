"""Limitations of a model, measured: one probe for each sentence of its card.

    from svdlab import probes
    result = probes.run("stillness", pipe, "results/limitations")
    print(result.verdict)
    result.figure()
    results = probes.run_all(pipe, "results/limitations", quick=True)
    probes.card.write(results, "results/limitations")

Each probe first audits its instrument on cases with a known answer; where that fails there are numbers and no verdict. Clips
lie in one study folder, so what was made is not made again. `svdlab.probes.probe` states how to write a probe of your own.
"""

from svdlab.probes import card as card
from svdlab.probes.probe import Check, Example, Graph, Probe, Study
from svdlab.probes.running import PROBES, Result, estimate, find, options_of, prepare, run, run_all, together
from svdlab.probes.stimuli import Stimuli

__all__ = ["PROBES", "Check", "Example", "Graph", "Probe", "Result", "Stimuli", "Study", "card"]
__all__ += ["estimate", "find", "options_of", "prepare", "run", "run_all", "together"]
