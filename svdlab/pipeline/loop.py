"""One pipeline's denoising loop, followed from outside: which step it is at, and what passes through it.

    >>> with follow(pipe) as loop:
    ...     loop.on_step.append(lambda values: print(loop.step.sigma, values["denoised"].std()))
    ...     pipe(image)

Floor of `trace` and `edit`. While at least one block follows a pipeline there is one `Loop` for it, however many blocks
are nested, and it takes its patches off with the last of them: `progress_bar` on the pipeline's instance,
`scale_model_input` and `step` on the scheduler's, and two hooks on the UNet. A run is known to be this pipeline's
because it opens this pipeline's own progress bar; so another pipeline may use the same modules meanwhile.

Order within a step: edits of the latents; of added_time_ids, image_embeddings, image_latents; of modules as they
run; of cond, uncond; of guidance, model_output, denoised. Of several edits of one thing the inner block's acts first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from svdlab.errors import TraceError
from svdlab.pipeline.record import Step
from svdlab.pipeline.schedule import denoised_to_v, v_to_denoised
from svdlab.pipeline.upstream import StableVideoDiffusionPipeline

INPUTS = ("added_time_ids", "image_embeddings", "image_latents")
EDITABLE = ("latents", *INPUTS, "cond", "uncond", "guidance", "model_output", "denoised")

Edit = Callable[[torch.Tensor, Step], "torch.Tensor | None"]


class Loop:
    """What is known of a run while it lasts. step: the step being computed, None between steps and outside a run.

    samples: how many clips the run makes. guided: whether the UNet computes unconditional halves at all; halves: how many
    it computes in this step (1 where a guidance interval spares the unconditional one). shape: of the latents, "b f c h w".
    """

    def __init__(self, pipe: StableVideoDiffusionPipeline) -> None:
        self.pipe, self.unet, self.scheduler = pipe, pipe.unet, pipe.scheduler
        self.step: Step | None = None
        self.samples, self.guided, self.shape, self.dtype = 0, False, torch.Size(), torch.float32
        self.edits: list[tuple[str, Edit]] = []
        self.on_start: list[Callable[[], None]] = []
        self.on_step: list[Callable[[dict[str, torch.Tensor]], None]] = []
        self._running = self._started = False
        self._passed: dict[str, torch.Tensor] = {}  # of this step: cond, uncond, and latents where edited

    @property
    def halves(self) -> int:
        injected = getattr(self.pipe, "_injected", None)
        return 2 if self.guided and not getattr(injected, "conditional_only", False) else 1

    def steps(self) -> list[Step]:
        """Every step that the scheduler has set for this run."""
        return [self._at(i) for i in range(len(self.scheduler.timesteps))]

    def edited(self, where: str) -> bool:
        return any(name == where for name, _ in self.edits)

    def change(self, where: str, value: torch.Tensor) -> torch.Tensor:
        """The value after all edits of it; the very same tensor where none acted."""
        for name, edit in reversed(self.edits):
            if name == where and self.step is not None:
                new = edit(value, self.step)
                value = value if new is None else new
        return value

    @contextmanager
    def noted(self, where: str) -> Iterator[None]:
        """An edit made by other means, entered in the list so that the clip can say what was changed."""
        entry: tuple[str, Edit] = (where, lambda value, step: None)
        self.edits.append(entry)
        try:
            yield
        finally:
            self.edits.remove(entry)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Modules that are run meanwhile are nobody's business."""
        step, self.step = self.step, None
        try:
            yield
        finally:
            self.step = step

    def _at(self, i: int) -> Step:
        sigmas = self.scheduler.sigmas
        return Step(i, float(sigmas[i]), float(sigmas[i + 1]), float(self.scheduler.timesteps[i]))

    def _progress_bar(self, old: Callable) -> Callable:
        def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
            bar = old(iterable, total)
            return self._watch(bar) if iterable is None else bar

        return progress_bar

    @contextmanager
    def _watch(self, bar: Any) -> Iterator[Any]:
        for name in ("unet", "scheduler"):
            if getattr(self.pipe, name) is not getattr(self, name):
                raise TraceError(f"pipe.{name} was replaced inside the block, which follows the old one: replace it before.")
        self._running, self._started = True, False
        try:
            with bar as opened:
                yield opened
        finally:
            self._running, self.step = False, None
            self._passed.clear()

    def _scale_model_input(self, old: Callable) -> Callable:
        """The first thing that happens in a step. Edited latents must reach both the UNet and, later, the scheduler."""

        def scale_model_input(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
            if not self._running:
                return old(sample, timestep)
            index = self.scheduler.step_index
            self.step = self._at(int(self.scheduler.index_for_timestep(timestep) if index is None else index))
            self.guided = bool(self.pipe.do_classifier_free_guidance)
            self.samples = len(sample) // (2 if self.guided else 1)
            latents = sample[: self.samples]
            self.shape, self.dtype = latents.shape, latents.dtype
            if not self._started:
                self._started = True
                if injected := getattr(self.pipe, "_injected", None):
                    injected.edits = [where for where, _ in self.edits]
                    for call in injected.calls if self.edits else ():
                        call["edits"] = list(injected.edits)
                for start in self.on_start:
                    start()
            new = self.change("latents", latents)
            if new is not latents:
                self._passed["latents"] = new
                sample = torch.cat([new] * (2 if self.guided else 1))
            return old(sample, timestep)

        return scale_model_input

    def _before_unet(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self.step is None or not any(map(self.edited, INPUTS)):
            return None
        kwargs["added_time_ids"] = self.change("added_time_ids", kwargs["added_time_ids"])
        kwargs["encoder_hidden_states"] = self.change("image_embeddings", kwargs["encoder_hidden_states"])
        noisy, picture = args[0].chunk(2, dim=2)
        return (torch.cat([noisy, self.change("image_latents", picture)], dim=2), *args[1:]), kwargs

    def _after_unet(self, module: Any, args: tuple, output: Any) -> Any:
        if self.step is None:
            return None
        value = output[0] if isinstance(output, tuple) else output.sample
        uncond, cond = value.chunk(2) if self.halves == 2 else (None, value)
        changed = [] if uncond is None else [self.change("uncond", uncond)]
        changed.append(self.change("cond", cond))
        if self.guided:
            self._passed["uncond"] = changed[0] if uncond is not None else torch.full_like(cond, float("nan"))
        self._passed["cond"] = changed[-1]
        if changed[-1] is cond and (uncond is None or changed[0] is uncond):
            return None
        value = torch.cat(changed)
        return (value, *output[1:]) if isinstance(output, tuple) else type(output)(sample=value)

    def _step(self, old: Callable) -> Callable:
        """The last thing: the guided output and the latents go in, the denoised estimate and the next latents come out."""

        def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.step is None:
                return old(model_output, timestep, sample, *args, **kwargs)
            sample = self._passed.pop("latents", sample)
            if self.edited("guidance"):
                model_output = self._guide(model_output)
            model_output = self.change("model_output", model_output)
            if self.edited("denoised"):
                model_output = self._denoise(model_output, sample)
            out = old(model_output, timestep, sample, *args, **kwargs)
            values = dict(self._passed, latents=sample, model_output=model_output)
            values["next_latents"] = out[0] if isinstance(out, tuple) else out.prev_sample
            denoised = out[1] if isinstance(out, tuple) and len(out) > 1 else getattr(out, "pred_original_sample", None)
            if denoised is not None:
                values["denoised"] = denoised
            for act in self.on_step:
                act(values)
            self.step = None
            self._passed.clear()
            return out

        return step

    def _guide(self, model_output: torch.Tensor) -> torch.Tensor:
        """The pipeline's own formula once more, with the edited scale."""
        if not self.guided:
            raise TraceError("an edit of guidance needs an unconditional half: set max_guidance_scale above 1.")
        scale = self.pipe.guidance_scale
        new = self.change("guidance", scale)
        if new is scale:
            return model_output
        if self.halves == 1:
            raise TraceError(
                "an edit of guidance acts on a step outside guidance_interval, where no unconditional half is computed: "
                "leave guidance_interval out, or restrict the edit by steps=."
            )
        uncond, cond = self._passed["uncond"], self._passed["cond"]
        return uncond + new * (cond - uncond)

    def _denoise(self, model_output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """The model output that leads to the edited estimate."""
        if self.scheduler.config.prediction_type != "v_prediction":
            raise TraceError("an edit of denoised is made for v-prediction, as SVD's: edit model_output instead.")
        assert self.step is not None
        x, sigma = sample.float(), self.step.sigma
        denoised = v_to_denoised(x, model_output.float(), sigma)
        new = self.change("denoised", denoised)
        return model_output if new is denoised else denoised_to_v(x, new, sigma).to(model_output)


_FOLLOWED: dict[int, tuple[Loop, ExitStack, list[None]]] = {}  # by id(pipe), while a block is open; the last: one per block


@contextmanager
def follow(pipe: StableVideoDiffusionPipeline) -> Iterator[Loop]:
    """The pipeline's `Loop`, shared by all blocks that are open; raises TraceError for a scheduler without noise levels."""
    if id(pipe) not in _FOLLOWED:
        _FOLLOWED[id(pipe)] = _install(Loop(pipe))
    loop, patches, blocks = _FOLLOWED[id(pipe)]
    blocks.append(None)
    try:
        yield loop
    finally:
        blocks.pop()
        if not blocks:
            del _FOLLOWED[id(pipe)]
            patches.close()


def _install(loop: Loop) -> tuple[Loop, ExitStack, list[None]]:
    missing = [name for name in ("sigmas", "step_index", "scale_model_input") if not hasattr(loop.scheduler, name)]
    if missing:
        raise TraceError(
            f"{type(loop.scheduler).__name__} has no {missing[0]}, by which steps are known: use SVD's EulerDiscreteScheduler."
        )
    with ExitStack() as stack:
        stack.enter_context(patched(loop.pipe, "progress_bar", loop._progress_bar))
        stack.enter_context(patched(loop.scheduler, "scale_model_input", loop._scale_model_input))
        stack.enter_context(patched(loop.scheduler, "step", loop._step))
        stack.callback(loop.unet.register_forward_pre_hook(loop._before_unet, with_kwargs=True).remove)
        stack.callback(loop.unet.register_forward_hook(loop._after_unet).remove)
        return loop, stack.pop_all(), []
    raise AssertionError("unreachable")


@contextmanager
def patched(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Put `wrap(the method as it is)` on the instance, and take it off again as it was."""
    had, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = wrap(getattr(owner, name))
    try:
        yield
    finally:
        if had:
            vars(owner)[name] = before
        else:
            vars(owner).pop(name, None)
