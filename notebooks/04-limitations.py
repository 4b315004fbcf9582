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
# **Question:** the model card admits limitations in a few sentences. How large is each of them, with which uncertainty, and is the
# instrument valid?
#
# You will see the questions, their cost, one probe in full (audit, clips, findings with intervals, typical and worst
# case), and a limitations card that could be attached to the model.
#
# **Run time:** about 65 s on two cores, on the organism.

# %% tags=["parameters"]
checkpoint: str = "organism"  # or SVD, SVD_XT, SVD_1_1, a hub id, a local folder
probe: str = "stillness"  # duration, realism, stillness, text_control, legibility, faces, autoencoder, off_conditions
also: list = ["autoencoder"]  # further probes for the card; the table below names them
images: str = ""  # a folder, a manifest, photographs, world; empty for the probe's own images
seeds: int = 1  # clips of each image
quick: bool = True  # fewer images, levels and steps
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
others = [name for name in also if name != probe]
cost = probes.estimate(pipe, out, names=[probe, *others], **choice)
cost[["probe", "clips", "missing", "seconds", "device", "why"]]

# %% [markdown]
# ## One probe
#
# First the audit: cases whose answer is known, made from the same images at the same size, after the autoencoder. Where the
# instrument fails the audit, numbers are reported without a verdict. Then the clips, into a ledger: started again, this makes what is
# missing.

# %%
result = probes.run(probe, pipe, out, **choice)
print(result)

# %%
show.save(result.figure(), Path(out, probe))

# %% [markdown]
# **How to read it:** each effect has an axis of its own, with its 95 % CI over images; grey is the margin that was fixed beforehand.
# *Effect*: the interval excludes zero (for a share: lies above the threshold). *Equivalent within the margin*: it lies inside the
# margin, which is evidence of no relevant effect. *Inconclusive*: neither, so more images are needed. *Descriptive*: a quantity, such
# as a length in seconds, with nothing to test it against.

# %%
result.table.describe().T[["count", "mean", "min", "max"]].round(3)

# %% [markdown]
# ## The card
#
# Every probe named above, together: as a page with its figures inside, as Markdown, and as JSON with every number. The findings of
# all are corrected as one family, so that q, and with it a verdict, may differ from that of one probe alone. `svdlab probe all`
# writes the whole card.

# %%
further = probes.run_all(pipe, out, names=others, **choice) if others else {}
results = probes.together({probe: result, **further})
written = probes.card.write(results, out)
written

# %% [markdown]
# In JupyterLab each line opens to its effects and its figure.

# %%
widgets.verdicts(results, out=Path(out, "exports"))

# %% [markdown]
# ## Answer

# %%
for name, one in results.items():
    print(f"{name}: {one.verdict}")

# %% [markdown]
# ## Exercise
#
# "Inconclusive" and "equivalent within the margin" are different answers. Run the probe again with `seeds=2` and `quick=False`:
# which finding changes its verdict, and how much narrower did its interval have to become?
#
# ## Limits
#
# - A verdict is about these images, seeds, conditions and thresholds, which the tables in the folder list. Other images can
#   give other results: pass your own by `images`.
# - `quick` runs with six to twelve images and ten steps: enough to see whether everything works, seldom enough for a verdict.
# - The thresholds (what counts as still, as broken, as none) are choices. They are constants at the top of each probe's module.
# - On the organism the planted laws are known, and stillness has one: some scenes on dark ground do not move. That the probe
#   finds it says that the instrument works. Of letters and faces the organism has seen drawn ones, of photographs none: results
#   on the organism say nothing about SVD.
#
# **Next:** [05-bias](05-bias.ipynb) asks whether some images are degraded more than others.
