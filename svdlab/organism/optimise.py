"""The state of one training stage: weights, their moving average, optimisers, and a file that survives a kill.

Hidden matrices are stepped by Muon, the rest by AdamW; gradients of several processes are averaged over gloo.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svdlab.organism import world


@dataclass
class Recipe:
    """Everything besides the code that determines a training run."""

    seed: int = 0
    batch: int = 8  # clips per process and step
    lr: float = 2e-3
    muon: bool = True  # orthogonalised steps for the hidden matrices
    warmup: int = 200  # steps
    ema: float = 0.999
    reuse: int = 6  # times a rendered clip is used, each with its own noise
    pool: int = 512  # clips per process that wait to be used again
    sigma_mean: float = 0.0  # of log sigma
    sigma_std: float = 1.4
    high_sigma: float = 0.15  # share of clips with log-uniform sigma in [5, 700]: where a film is decided
    chance: float = 0.0  # share of batches that show only pans and dark scenes, in which the picture leaves a choice open
    choice_sigmas: tuple[float, float] = (3.0, 80.0)  # where the choice is made:
    choice_share: float = 0.5  # so many of those batches' sigmas are log-uniform over it
    # What training shows: the world's odds, or others, where what the network makes is off by more than training mends.
    pan_right: float = world.PAN_RIGHT
    frozen_on_dark: float = world.FROZEN_ON_DARK
    drop_both: float = 0.08  # unconditional: image embedding and image latents to zero
    drop_latents: float = 0.07  # the embedding alone must tell
    strong_noise: float = 0.10  # share of clips whose picture carries noise up to 1: again the embedding must tell


def orthogonalise(g: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1, by the quintic Newton-Schulz iteration (Jordan et al. 2024, Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        y = x @ x.T
        x = a * x + (b * y + c * y @ y) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights seen as matrices "out rest"; torch's own takes neither convolutions nor,
    on a CPU, single precision. The step is scaled to the size of an Adam step, so that both share one learning rate."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                m = state.setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"]).flatten(1)
                u = orthogonalise(g) * 0.2 * max(g.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-group["lr"])


def is_hidden(name: str, p: torch.Tensor) -> bool:
    """Whether Muon takes it: a weight matrix or filter bank inside the network, not at its ends."""
    ends = ("conv_in", "conv_out", "embedding", "patch")
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and not any(e in name for e in ends)


class Trainer:
    """Weights, optimiser, moving average and step counter of one stage, on one of several processes."""

    def __init__(self, parts: dict[str, torch.nn.Module], recipe: Recipe, out: Path, rank: int, ranks: int) -> None:
        self.parts, self.recipe, self.out, self.rank, self.ranks = parts, recipe, out, rank, ranks
        self.params = {f"{n}.{k}": p for n, m in parts.items() for k, p in m.named_parameters()}
        self.average = {k: p.detach().clone() for k, p in self.params.items()}
        hidden = [p for k, p in self.params.items() if is_hidden(k, p)]
        rest = [p for k, p in self.params.items() if not is_hidden(k, p)]
        if not recipe.muon:
            hidden, rest = [], hidden + rest
        adam = torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.optimizers: list[torch.optim.Optimizer] = [adam] + ([Muon(hidden, recipe.lr)] if hidden else [])
        self.step = self.clips = 0
        self.seconds = 0.0
        self.rows: list[dict] = []

    def update(self, loss: torch.Tensor, scale: float = 1.0) -> None:
        for p in self.params.values():
            p.grad = None
        loss.backward()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params.values()]
        flat = torch.cat([g.flatten() for g in grads])
        if self.ranks > 1:
            dist.all_reduce(flat)
            flat /= self.ranks
        norm = flat.norm()
        flat *= min(1.0, 1.0 / (float(norm) + 1e-9))
        for p, g in zip(self.params.values(), flat.split([g.numel() for g in grads]), strict=True):
            p.grad = g.view_as(p)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * min(1.0, (self.step + 1) / self.recipe.warmup) * scale
            optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.params.values()), 1 - decay)

    def save(self) -> None:
        """Weights, average and optimiser as safetensors, written beside and renamed: a kill leaves the last one whole."""
        tensors = {f"param/{k}": p.detach() for k, p in self.params.items()}
        tensors |= {f"ema/{k}": p for k, p in self.average.items()}
        for k, p in self.params.items():
            for optimizer in self.optimizers:
                for name, value in optimizer.state.get(p, {}).items():
                    tensors[f"{name}/{k}"] = torch.as_tensor(value)
        state = dict(step=self.step, clips=self.clips, seconds=round(self.seconds, 1), recipe=asdict(self.recipe))
        temporary = self.out.with_suffix(".part")
        save_file(
            {k: v.contiguous().clone() for k, v in tensors.items()},
            temporary,
            metadata={"state": json.dumps(state)},
        )
        os.replace(temporary, self.out)
        log = self.out.with_suffix(".csv")
        new = not log.exists()
        with open(log, "a", newline="") as file:
            for row in self.rows:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if new:
                    writer.writeheader()
                    new = False
                writer.writerow(row)
        self.rows = []

    def load(self) -> None:
        tensors = load_file(self.out)
        with safe_open(self.out, "pt") as file:
            state = json.loads(file.metadata()["state"])
        with torch.no_grad():
            for k, p in self.params.items():
                p.copy_(tensors[f"param/{k}"])
                self.average[k].copy_(tensors[f"ema/{k}"])
                for optimizer in self.optimizers:
                    if any(p is q for group in optimizer.param_groups for q in group["params"]):
                        names = ("step", "exp_avg", "exp_avg_sq", "momentum")
                        state_of_p = {n: tensors[f"{n}/{k}"].clone() for n in names if f"{n}/{k}" in tensors}
                        optimizer.state[p] = state_of_p
        self.step, self.clips, self.seconds = state["step"], state["clips"], state["seconds"]

    def use_average(self) -> None:
        with torch.no_grad():
            for k, p in self.params.items():
                p.copy_(self.average[k])
