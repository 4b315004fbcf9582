"""LoRA and scheduler as columns of a plan: what each row's clip is, what it is called, and what workers make of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import svdlab
from svdlab.errors import InputError
from svdlab.measure.files import hash_file
from svdlab.study import ledger
from svdlab.study.failures import rates
from svdlab.study.notebooks import report
from svdlab.study.overview import overview
from tests.study.making import latents, same, sweep

pytestmark = pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning", "ignore:__array__ implementation")


@pytest.fixture(scope="module")
def pan(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of all temporal attention, large enough to be seen."""
    draw, state = torch.Generator().manual_seed(1), {}
    for name, module in small.unet.named_modules():
        if "temporal_transformer_blocks" in name and name.endswith(("to_v", "to_out.0")):
            state[f"unet.{name}.lora.down.weight"] = torch.randn(2, module.in_features, generator=draw)
            state[f"unet.{name}.lora.up.weight"] = torch.randn(module.out_features, 2, generator=draw) / 8
    save_file(state, path := tmp_path_factory.mktemp("loras") / "camera-pan.safetensors")
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_a_dose_response_over_strength_is_what_the_block_makes(small: Any, pan: Path, tmp_path: Path, threads: int) -> None:
    """Strengths alternate in the plan, so that a batch could mix them."""
    rows = [dict(lora=str(pan), lora_scale=scale, seed=seed) for seed in (0, 1) for scale in (0.0, 0.5, 1.0)]
    plan = pd.DataFrame([{"num_inference_steps": 2, **row} for row in [*rows, {"lora": None, "seed": 0}]])
    table = sweep(small, plan, tmp_path / "study", batch_size=4, threads=threads)
    found = latents(table)
    for row, z in zip(table.itertuples(), found, strict=True):
        with svdlab.lora(small, pan, row.lora_scale):
            assert same(z, svdlab.generate(small, "cat", seed=row.seed, num_inference_steps=2).latents)
    assert (found[0] - found[1]).abs().max() > 0.01 * found[0].abs().max()
    assert table.lora.tolist() == ["camera-pan.safetensors"] * 6 + [""]
    assert table.lora_scale.tolist() == [0, 0.5, 1, 0, 0.5, 1, 0] and table.run_id[0] == table.run_id[6]
    assert set(table.lora_hash) == {"", hash_file(pan)} and table.run_id.nunique() == 6 and table.weights.nunique() == 3
    read = svdlab.load_results(tmp_path / "study").set_index("run_id").loc[table.run_id]
    assert read.lora_scale.tolist() == table.lora_scale.tolist()
    with svdlab.lora(small, pan, 0.5):  # the block and the column are one thing
        inside = sweep(small, [{"num_inference_steps": 2}], tmp_path / "study")
    assert inside.run_id[0] == table.run_id[1] and ledger.check(tmp_path / "study").empty
    assert small.source.lora == "" and str(pan.parent) not in (Path(table.frames[1]).parent / "run.json").read_text()


def test_report_overview_and_rates_of_a_study_tell_strengths_and_interventions_apart(
    small: Any, pan: Path, tmp_path: Path
) -> None:
    plan = svdlab.grid(lora=str(pan), lora_scale=[0.0, 1.0], num_inference_steps=1)
    table = sweep(small, plan, tmp_path, measure=("motion", "fidelity"))
    assert {"sheet.png", "dose-response.png"} <= {path.name for path in overview(table, tmp_path)}
    assert set(rates(table, kinds=["blur"]).condition) == {"all", "lora_scale"}
    with svdlab.edit(small, "guidance", lambda value, step: value / 2):
        sweep(small, svdlab.grid(num_inference_steps=1), tmp_path, intervention="half the guidance")
    page = report(tmp_path).read_text()
    for words in ("LoRA strength 1", "intervention half the guidance", "LoRA camera-pan.safetensors"):
        assert words in page


def test_a_lora_of_another_thread_stops_the_sweep(small: Any, tmp_path: Path) -> None:
    """As in a notebook that goes on while a sweep runs in the background: its rows would be called the plain model's."""
    own = small.source

    def put_on(value: Any, step: Any) -> None:
        small.source = replace(own, lora="camera-pan.safetensors")

    rows = [{"num_inference_steps": 2, "seed": seed} for seed in (0, 1)]
    with svdlab.edit(small, "latents", put_on), pytest.raises(InputError, match="a LoRA was put on this sweep's pipeline"):
        sweep(small, rows, tmp_path / "study", intervention="another thread's", batch_size=1)
    small.source = own
    assert not list(tmp_path.glob("study/runs/*/frames.mkv"))


def test_an_executors_workers_have_the_rows_lora_or_refuse(small: Any, pan: Path, tmp_path: Path) -> None:
    plan = svdlab.grid(lora=str(pan), lora_scale=[0.5, -0.5], num_inference_steps=2)
    here = sweep(small, plan, tmp_path / "here")
    with ThreadPoolExecutor(2) as executor:
        there = sweep(small, plan, tmp_path / "there", executor=executor, batch_size=1)
        assert there.run_id.tolist() == here.run_id.tolist() and same(latents(there), latents(here))
        with svdlab.lora(small, pan), pytest.raises(InputError, match="the plan's columns lora and lora_scale"):
            sweep(small, [{"num_inference_steps": 2}], tmp_path / "there", executor=executor)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (dict(lora="gone.safetensors"), "gone.safetensors.*No such file"),
        (dict(lora_scale=0.5), "row 0 of the plan: lora_scale=0.5 needs lora"),
        (dict(lora="a.safetensors", lora_scale="strong"), "row 0 of the plan: lora_scale='strong'"),
        (dict(lora="a.safetensors", lora_scale=float("inf")), "row 0 of the plan: lora_scale=inf"),
        (dict(lora=7), "row 0 of the plan: lora=7"),
        (dict(lora="no-lora.safetensors"), "no LoRA of this UNet"),
        (dict(lora="a.pt"), "give a .safetensors file"),
        (dict(scheduler="DPMSolverMultistepScheduler"), "row 0 of the plan: DPMSolverMultistepScheduler does not work"),
        (dict(scheduler="euler"), "row 0 of the plan: scheduler='euler': give one of EulerDiscreteScheduler"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_study_begins(
    small: Any, tmp_path: Path, row: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"x": torch.ones(1)}, "no-lora.safetensors")
    Path("a.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=said):
        sweep(small, [row], tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_plans_file_may_name_the_lora_beside_it(small: Any, pan: Path, tmp_path: Path) -> None:
    (tmp_path / pan.name).write_bytes(pan.read_bytes())
    (tmp_path / "plan.csv").write_text(f"lora,lora_scale,num_inference_steps\n{pan.name},0.5,1\n{pan.name},,1\n,,1\n")
    table = sweep(small, tmp_path / "plan.csv", tmp_path / "study")
    assert table.lora_scale.tolist() == [0.5, 1, 0] and table.lora.tolist() == [pan.name, pan.name, ""]


def test_schedulers_are_rows_of_one_study(small: Any, tmp_path: Path) -> None:
    names = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "EDMDPMSolverMultistepScheduler", None]
    plan = [dict(scheduler=name, num_inference_steps=3, seed=seed) for seed in (0, 1) for name in names]
    table = sweep(small, plan, tmp_path / "study", batch_size=4)
    assert table.scheduler.tolist() == [*names[:3], names[0]] * 2 and table.run_id[0] == table.run_id[3]
    assert set(table.schedule) == {"karras"} and set(table.sigma_max) == {700.0} and table.run_id.nunique() == 6
    for row, z in zip(table.itertuples(), latents(table), strict=True):
        clip = svdlab.generate(small, "cat", seed=row.seed, scheduler=row.scheduler, num_inference_steps=3)
        assert same(z, clip.latents)
    read = svdlab.load_results(tmp_path / "study").set_index("run_id").loc[table.run_id]
    assert read.scheduler.tolist() == table.scheduler.tolist()
