"""What both training scripts share: Muon, the optimizers, and a state file that survives a kill.

The state is one safetensors file: nothing is ever unpickled. It holds weights, moving average and the optimizers' tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svdlab.measure.files import write_whole

KEYS = ("momentum", "step", "exp_avg", "exp_avg_sq")


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) for weights seen as matrices "out rest"; steps as large as Adam's.

    torch's own Muon takes neither convolutions nor, on a CPU, single precision.
    """

    def __init__(self, params: list, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"]).flatten(1)
                u = orthogonalised(g) * 0.2 * max(g.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-group["lr"])


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """The nearest matrices "... o i" with singular values near 1, by five quintic Newton-Schulz steps."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(5):
        y = x @ x.mT
        x = 3.4445 * x + (-4.7750 * y + 2.0315 * y @ y) @ x
    return x.mT if tall else x


def optimizers(parts: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for the rest: its ends, norms and biases."""
    ends = ("conv_in", "conv_out", "embedding", "patch")
    hidden, rest = [], []
    for name, p in parts.named_parameters():
        inside = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and not any(end in name for end in ends)
        (hidden if inside else rest).append(p)
    return [Muon(hidden, lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]


def set_rate(optims: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """One learning rate for all."""
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = lr


def save_state(path: Path, step: int, model: torch.nn.Module, ema: EMAModel, optims: Sequence[torch.optim.Optimizer]) -> None:
    """Write everything that training needs to go on; a kill leaves the last state whole."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors = {f"param/{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"ema/{name}": p for name, p in zip(names.values(), ema.shadow_params, strict=True)}
    for optim in optims:
        for p, state in optim.state.items():
            tensors |= {f"{key}/{names[id(p)]}": torch.as_tensor(value) for key, value in state.items()}
    with write_whole(path) as part:
        save_file({k: v.cpu().contiguous().clone() for k, v in tensors.items()}, part, metadata={"step": str(step)})


@torch.no_grad()
def load_state(path: Path, model: torch.nn.Module, ema: EMAModel, optims: Sequence[torch.optim.Optimizer]) -> int:
    """Put back what `save_state` wrote; returns the step, 0 where there is no file."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    for (name, p), average in zip(model.named_parameters(), ema.shadow_params, strict=True):
        p.copy_(tensors[f"param/{name}"])
        average.copy_(tensors[f"ema/{name}"])
        for optim in optims:
            if any(p is q for group in optim.param_groups for q in group["params"]):
                optim.state[p] = {k: tensors[f"{k}/{name}"].to(p.device) for k in KEYS if f"{k}/{name}" in tensors}
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def averaged(path: Path) -> dict[str, torch.Tensor]:
    """The moving average's weights by name."""
    return {k.removeprefix("ema/"): v for k, v in load_file(path).items() if k.startswith("ema/")}
