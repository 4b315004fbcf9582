"""Bias studies: does the model degrade some inputs more than others? Paired images, compared in many measures at once.

from svdlab.probes import bias
design = bias.Design("people.csv", margins={"object_px": 0.3})
result = bias.run(pipe, design, "results/people")
print(result.report())
bias.slopes(result, result.table.iloc[0])
"""

# ruff: noqa: F401
from svdlab.probes.bias import planted, symmetry
from svdlab.probes.bias.contrasts import MEASURES, compare, pair_values
from svdlab.probes.bias.figure import pairs, save_figures, slopes, worst_pairs
from svdlab.probes.bias.study import BiasResult, Design, autoencoder_loss, register, run
