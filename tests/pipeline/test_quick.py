"""The same numbers by less work, and nothing left behind: quick convolutions, attention to one key."""

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0

import svdlab
from svdlab.pipeline.generate import Start
from svdlab.pipeline.quick import one_key_attention, quick_convolutions
from tests.four_levels import four_levels
from tests.pipeline.making import hooks_of, make

ATTN = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn2"


@pytest.mark.parametrize("threads", [1, 2])
def test_quick_convolutions_give_what_torch_gives_and_leave_nothing(pipe: Any, threads: int) -> None:
    convolutions = [m for part in (pipe.unet, pipe.vae) for m in part.modules() if isinstance(m, torch.nn.Conv3d)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for module in {(m.in_channels, m.out_channels): m for m in convolutions}.values():
            x = torch.randn(2, 5, module.in_channels, 4, 6).transpose(1, 2)  # as it comes from a spatial layer: not contiguous
            with torch.no_grad():
                plain = module(x)
                with quick_convolutions(pipe):
                    assert "forward" in vars(module)
                    quick = module(x)
            assert quick.shape == plain.shape and (quick - plain).abs().max() <= 1e-5 * plain.abs().max()
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ZeroDivisionError), quick_convolutions(pipe):
        _ = 1 / 0
    assert not [m for m in convolutions if "forward" in vars(m)]


def test_quick_convolutions_are_for_what_the_cpu_computes(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offload keeps a GPU's weights on the CPU."""
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("cuda"))
    with quick_convolutions(pipe):
        assert not any("forward" in vars(m) for m in pipe.unet.modules())


@pytest.mark.parametrize("change", [("padding_mode", "circular"), ("dilation", (2, 1, 1)), ("groups", 2)])
def test_a_convolution_of_other_settings_computes_as_it_is(change: tuple[str, Any]) -> None:
    """Case A1's kind: frames that close to a loop, by an attribute that loading does not set."""
    pipe = four_levels()
    for module in (m for m in pipe.unet.modules() if type(m) is torch.nn.Conv3d):
        setattr(module, *change)
    with quick_convolutions(pipe):
        assert not any("forward" in vars(m) for m in pipe.unet.modules())


# --- attention to one key -----------------------------------------------------------------------------------------------


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One for each time that queries and keys of an attention to one key are computed: never, where that is enough."""
    found, attention = [], torch.nn.functional.scaled_dot_product_attention

    def counting(query: Any, key: Any, *args: Any, **more: Any) -> Any:
        found.extend([True] * (key.shape[-2] == 1))
        return attention(query, key, *args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    return found


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without it: no attention is found fit for it."""
    monkeypatch.setattr("svdlab.pipeline.quick._plain", lambda attn: False)


def trace_of(pipe: Any, keep: tuple[str, ...], scale: float) -> Any:
    with svdlab.trace(pipe, keep=keep, modules=ATTN) as tr, svdlab.edit(pipe, "latents", lambda v, s: 0.99 * v):
        make(pipe, max_guidance_scale=scale)
    return tr


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_one_key_gives_what_attention_gives_and_leaves_nothing(
    pipe: Any, queries: list[bool], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """On the organism to the last bit, whatever is traced and edited."""
    before, keep = hooks_of(pipe), ("latents", "denoised", "cond") + ("uncond",) * (scale > 1)
    quick = trace_of(pipe, keep, scale)
    few = len(queries)
    assert hooks_of(pipe) == before
    slow(monkeypatch)
    plain = trace_of(pipe, keep, scale)
    assert few == 2 and len(queries) - few > 10  # the traced one alone computes its queries, once a step
    for name in (*keep, ATTN):
        assert torch.equal(quick[name], plain[name]), name


def test_one_key_is_bit_identical_on_svds_own_topology(four: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = make(four).latents
    slow(monkeypatch)
    assert torch.equal(quick, make(four).latents)


def test_it_is_undone_after_an_error_and_when_the_last_of_several_threads_is_done(pipe: Any) -> None:
    before, plain = hooks_of(pipe), [make(pipe, seed=s).latents for s in range(4)]

    def fail(value: Any, step: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), svdlab.edit(pipe, "cond", fail):
        make(pipe)
    assert hooks_of(pipe) == before
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(contextvars.copy_context().run, make, pipe, "scene-1", s) for s in range(4)]
        assert all(torch.equal(w.result().latents, z) for w, z in zip(work, plain, strict=True))
    assert hooks_of(pipe) == before
    attn = pipe.unet.get_submodule(ATTN.removeprefix("unet."))
    with one_key_attention(pipe.unet):
        with one_key_attention(pipe.unet):
            own = vars(attn)["forward"]
        assert vars(attn)["forward"] is own
    assert hooks_of(pipe) == before


class Silent(AttnProcessor2_0):
    """A foreign processor: nothing of the image comes through."""

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.zeros_like(hidden_states)


FOREIGN: dict[str, Any] = {
    "a processor": lambda attn: attn.set_processor(Silent()),
    "fused": lambda attn: (attn.fuse_projections(), attn.set_processor(FusedAttnProcessor2_0())),
    "a forward": lambda attn: setattr(attn, "forward", lambda hidden_states, *args, **kwargs: torch.zeros_like(hidden_states)),
    "a hook inside": lambda attn: attn.to_v.register_forward_hook(lambda module, args, output: 0 * output),
    "a pre-hook": lambda attn: attn.register_forward_pre_hook(lambda module, args: (0 * args[0],)),
    "in place": lambda attn: attn.register_forward_hook(lambda module, args, output: output.mul_(2)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_foreign_to_an_attention_computes_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases A4 and B5: another processor, fused projections, a forward of its own, hooks, also one that works in place."""
    pipe = four_levels()
    for module in pipe.unet.modules():
        if getattr(module, "attn2", None) is not None:
            FOREIGN[name](module.attn2)
    before, quick = hooks_of(pipe), make(pipe).latents
    assert hooks_of(pipe) == before
    slow(monkeypatch)
    assert torch.equal(quick, make(pipe).latents)


def test_a_processor_set_in_the_middle_of_a_call_takes_effect() -> None:
    """The attention to the image falls silent at step 1, as in a call that begins with it there."""
    pipe = four_levels()

    def change(value: Any, step: Any) -> None:
        if step.index == 1:
            for module in pipe.unet.modules():
                if getattr(module, "attn2", None) is not None:
                    module.attn2.set_processor(Silent())

    with svdlab.edit(pipe, "latents", change), svdlab.trace(pipe, keep=("cond", "next_latents")) as tr:
        make(pipe, max_guidance_scale=1.0)
    with svdlab.trace(pipe, keep=("cond",)) as again:  # silent from the beginning
        make(pipe, max_guidance_scale=1.0, start=Start(latents=tr["next_latents"][:1].clone(), first=1))
    assert torch.equal(tr["cond"][1], again["cond"][0])
