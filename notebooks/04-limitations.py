# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Limitations
#
# **Question:** the model card admits limitations in a few sentences. How large is each of them, how sure is that, and does the
# instrument that says so work?
#
# You will see what there is to ask, what it costs, one probe in full (audit, clips, findings with intervals, typical and worst
# case), and a limitations card that could be attached to the model.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
probe: str = "stillness"  # duration, realism, stillness, text_control, legibility, faces, autoencoder, off_conditions
also: list = ["autoencoder"]  # further probes for the card; the table below names them
images: str = ""  # a folder, a manifest, photographs, world; empty for the probe's own pictures
seeds: int = 1  # clips of each picture
quick: bool = True  # fewer pictures, levels and steps
out: str = "../results/04-limitations"  # folder for the card, figures, clips and tables

# %%
from pathlib import Path

import pandas as pd
import svdlab
from svdlab import probes, show, widgets

# %% [markdown]
# ## What can be asked, and what it costs
#
# Each probe takes one sentence of the card. Before anything is made, two denoising steps are timed on this machine: `seconds`
# is what the missing clips would take on it.

# %%
found = {name: probes.find(name) for name in probes.PROBES}
pd.DataFrame({name: {"the card says": p.card, "question": p.question} for name, p in found.items()}).T

# %%
pipe = svdlab.load_pipeline(checkpoint)
choice = dict(images=images or None, seeds=seeds, quick=quick)
cost = probes.estimate(pipe, out, names=[probe, *also], **choice)
cost[["probe", "clips", "missing", "seconds", "device", "why"]]

# %% [markdown]
# ## One probe
#
# First the audit: cases whose answer is known, made from the same pictures at the same size, after the autoencoder. Where the
# instrument gets them wrong there are numbers, and no verdict. Then the clips, into a ledger: started again, this makes what is
# missing.

# %%
result = probes.run(probe, pipe, out, **choice)
print(result)

# %%
fig = result.figure()
show.save(fig, Path(out, probe))
fig

# %% [markdown]
# **How to read it:** each finding has an axis of its own, with its 95 % interval over pictures; grey is what the probe, before it
# began, said should count as none. *Found*: the interval leaves out zero (a share: lies above the grey). *None within margin*: it
# lies inside the grey, which is evidence of none. *Cannot tell*: neither, so more pictures are needed. *Measured*: a
# quantity, such as a length in seconds, that has nothing to be tested against.

# %%
result.table.describe().T[["count", "mean", "min", "max"]].round(3)

# %% [markdown]
# ## The card
#
# Every probe named above, together: as a page with its figures inside, as Markdown, and as JSON with every number. `svdlab probe
# all` writes the whole card.

# %%
results = {probe: result, **probes.run_all(pipe, out, names=also, **choice)}
written = probes.card.write(results, out)
written

# %% [markdown]
# In JupyterLab each line opens to its findings and its figure.

# %%
widgets.verdicts(results, out=Path(out, "exports"))

# %% [markdown]
# ## Limits
#
# - A verdict is about these pictures, seeds, conditions and bars, which the tables in the folder list. Other pictures can
#   answer otherwise: give your own by `images`.
# - `quick` runs with six to twelve pictures and ten steps: enough to see whether everything works, seldom enough for a verdict.
# - The bars (what counts as still, as broken, as none) are choices. They stand at the head of each probe's module.
# - On the organism the planted laws are known, and stillness has one: some scenes on dark ground do not move. The probe
#   calls 87 % of those still that stand by a ruler which knows the scene, and 5 % of the others. Zooms, which the
#   organism has not learned, are not among its pictures. Photographs, faces and text are outside its world. What it says about
#   SVD is nothing.
#
# **Next:** [05-bias](05-bias.ipynb) asks whether some pictures are served worse than others.
