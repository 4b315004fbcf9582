"""torch.compile for real, with a C++ compiler: the same clip, traced and swept as any other."""

import shutil
from pathlib import Path

import pytest

import svdlab
from svdlab.errors import TraceError
from svdlab.pipeline import quick
from svdlab.study import identity
from tests.small import save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt-get install g++"),
]


def test_a_compiled_unet_makes_the_same_clip(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "small")
    plain = svdlab.load_pipeline(folder, device="cpu")
    compiled = svdlab.load_pipeline(folder, device="cpu", compile=True)
    assert quick.compiled(compiled.unet) and type(compiled.unet) is type(plain.unet)  # by block: the whole keeps its hooks
    asked = dict(seed=3, num_inference_steps=2)
    with svdlab.trace(plain, modules="unet.mid_block") as expected:
        svdlab.generate(plain, "cat", **asked)
    with svdlab.trace(compiled, modules="unet.mid_block") as measured:
        clip = svdlab.generate(compiled, "cat", **asked)
    assert (measured.latents - expected.latents).abs().max() < 1e-4 * expected.latents.abs().max()

    assert (measured["unet.mid_block"] - expected["unet.mid_block"]).abs().max() < 1e-3 * expected[
        "unet.mid_block"
    ].abs().max()
    with pytest.raises(TraceError, match="compiled"), svdlab.trace(compiled, attention="temporal"):
        pass
    assert identity.facts(compiled) == identity.facts(plain)

    table = svdlab.sweep(compiled, [asked], tmp_path / "study", image="cat", batch_size=1, progress=False)
    assert table.status.tolist() == ["done"]
    kept = svdlab.load_results(tmp_path / "study").latents[0]
    assert Path(kept).is_file() and clip.latents.isfinite().all()
