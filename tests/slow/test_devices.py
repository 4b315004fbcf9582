"""`sweep(devices=)`: several processes, a device each, make one study. Four times the CPU stands for four GPUs."""

from pathlib import Path

import pytest
import torch

import svdlab
from svdlab.errors import CheckpointError, InputError
from svdlab.study import ledger
from tests.small import save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning")]


def test_four_devices_share_one_study(tmp_path: Path) -> None:
    pipe = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"), device="cpu", memory="small")
    plan = svdlab.grid(seed=range(32), num_inference_steps=20)
    how = dict(image="cat", measure="fidelity", batch_size=1, progress=False)
    table = svdlab.sweep(pipe, plan, tmp_path / "study", devices=["cpu"] * 4, **how)
    assert set(table.status) == {"done"} and ledger.check(tmp_path / "study").empty
    records = [ledger.read_record(ledger.run_folder(tmp_path / "study", run)) for run in table.run_id]
    makers = [record["process"] for record in records]
    assert len(set(makers)) == 4 and min(map(makers.count, set(makers))) >= 3, makers
    assert len({record["device"] for record in records}) == 1 and records[0]["device"].startswith("cpu, ")
    here = svdlab.sweep(pipe, plan[:2], tmp_path / "here", **how)
    assert here.run_id.tolist() == table.run_id[:2].tolist()
    assert (here.drift_mse_mean - table.drift_mse_mean[:2]).abs().max() < 1e-5
    assert svdlab.sweep(pipe, plan, tmp_path / "study", devices="all", **how).run_id.tolist() == table.run_id.tolist()


def test_a_changed_pipeline_is_not_swept_by_processes_that_load_the_plain_one(tmp_path: Path) -> None:
    pipe = svdlab.load_pipeline(save_checkpoint(tmp_path / "small"), device="cpu")
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.01)
    with pytest.raises(CheckpointError, match="differs from the sweep's pipeline in weights"):
        svdlab.sweep(pipe, [{}], tmp_path / "study", image="cat", devices=["cpu"], progress=False)
    with pytest.raises(InputError, match="no intervention"):
        svdlab.sweep(pipe, [{}], tmp_path / "study", image="cat", devices=["cpu"], intervention="brighter", progress=False)
