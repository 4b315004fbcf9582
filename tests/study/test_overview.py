"""Images from a folder, a glob or a CSV; a sweep that is watched from elsewhere; what it is looked at first."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import svdlab
from svdlab.errors import InputError
from svdlab.study import plans
from svdlab.study.lock_in import lock_in, locked
from svdlab.study.notebooks import report
from svdlab.study.overview import overview

SMALL = dict(num_inference_steps=1, max_guidance_scale=1.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a/cat.png", "b/cat.png", "b/dog.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (len(name) * 20, ord(name[0]), 90)).save(folder / name)
    return folder


def test_images_come_from_a_folder_a_glob_or_a_csv(photos: Path) -> None:
    plan = plans.grid(fps=[6, 12])
    of = lambda image: plans.across_images(plan, image)
    assert [Path(p).name for p in of(photos / "b")[0].image] == ["cat.png", "dog.jpg"] * 2 and of(photos / "b")[1] is None
    assert len(of(f"{photos}/*/cat.png")[0]) == 4 and len(of(f"{photos}/**/*")[0]) == 6
    (photos / "list.csv").write_text("file,who\na/cat.png,Ada\nscene-3,\n")
    table = of(photos / "list.csv")[0]
    assert table.image.tolist() == [str(photos / "a/cat.png"), "scene-3"] * 2 and table.label_who.tolist() == ["Ada", ""] * 2
    for same in ("scene-3", str(photos / "a/cat.png"), None, 3):
        assert of(same)[0] is plan and of(same)[1] == same
    for wrong, words in ((f"{photos}/*.gif", "no image"), (photos, "no image")):
        with pytest.raises(InputError, match=words):
            of(wrong)
    with pytest.raises(InputError, match="both"):
        plans.across_images(plans.grid(image="cat"), photos / "b")
    (photos / "odd.csv").write_text("name\ncat\n")
    with pytest.raises(InputError, match="column 'image'"):
        of(photos / "odd.csv")


def test_a_sweep_of_a_folder_is_watched_from_elsewhere(pipe: Any, photos: Path, tmp_path: Path) -> None:
    out, hold, begun = tmp_path / "study", threading.Event(), threading.Event()

    def wait(module: Any, args: tuple) -> None:
        denoised = [*out.glob("runs/.*.latents"), *out.glob("runs/[!.]*/run.json")]
        while denoised and not hold.is_set():  # until the writer has the first clip
            if list(out.glob("runs/[!.]*/run.json")):
                begun.set()
                hold.wait(60)
            time.sleep(0.02)

    plan = svdlab.grid(**SMALL)
    with ThreadPoolExecutor(1) as pool:
        how = dict(image=f"{photos}/**/*", measure="fidelity", progress=False, threads=1, batch_size=1)
        svdlab.sweep(pipe, plan, tmp_path / "first", **{**how, "image": photos / "a"})  # so that nothing is left to load
        hook = pipe.unet.register_forward_pre_hook(wait)
        try:
            job = pool.submit(svdlab.sweep, pipe, plan, out, intervention="watched", **how)
            assert begun.wait(60)
            seen = svdlab.load_results(out)
            hold.set()
            table = job.result()
        finally:
            hold.set()
            hook.remove()
    assert 1 <= len(seen) <= 2 and len(seen) + seen.attrs["missing"] == 3
    assert len(table) == 3 and svdlab.load_results(out).attrs["missing"] == 0


def test_an_overview_has_a_table_a_sheet_and_a_curve(pipe: Any, tmp_path: Path) -> None:
    plan = svdlab.grid(motion_bucket_id=[40, 200], seed=[0, 1], **SMALL)
    results = svdlab.sweep(pipe, plan, tmp_path, image="scene-27", progress=False)
    files = overview(results, tmp_path)
    assert [f.name for f in files] == ["results.csv", "sheet.png", "dose-response.png"] and all(
        f.stat().st_size for f in files
    )
    assert len(pd.read_csv(files[0])) == 4
    assert [f.name for f in overview(results[:1], tmp_path)] == ["results.csv"]
    html = report(tmp_path).read_text()
    assert "<h2>Failures</h2>" in html and "drift, all clips" in html and "Worst of 4 clips by kind of failure" in html


def test_lock_in_ends_at_the_clip_itself(pipe: Any) -> None:
    table = lock_in(pipe, "scene-27", seeds=[0, 1], num_inference_steps=3)
    last = table[table.step == 2]
    assert last.motion.tolist() == pytest.approx([1, 1]) and last.image.tolist() == pytest.approx([1, 1])
    assert table.motion.between(-1, 1.0001).all() and table.groupby("seed").sigma.first().tolist() == pytest.approx([700, 700])
    found = locked(table.assign(motion=[0.1, 0.95, 1, 0.95, 0.2, 1]), 0.9)
    assert found.motion_step.tolist() == [1, 2] and found.index.tolist() == [0, 1]
