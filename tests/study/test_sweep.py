"""A sweep makes what a plan says, once, files it whole, and goes on from whatever it finds."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import svdlab
from svdlab.errors import BrokenClipError, InputError, OutOfMemoryError, SweepInterrupted
from svdlab.measure import fidelity, motion, video
from svdlab.study import identity, ledger, workers
from tests.small import FRAMES, SIDE
from tests.study.making import latents, same, sweep

LOCAL = {"host": "127.0.0.1", "security": True, "dashboard_address": None}  # or dask asks the network for its own address
EDITED = "unet.mid_block.attentions.0.temporal_transformer_blocks.0.attn1"


pytestmark = pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning", "ignore:__array__ implementation")


def plan_of(**axes: Any) -> pd.DataFrame:
    return svdlab.grid(**{"num_inference_steps": 2, **axes})


@contextmanager
def counted(pipe: Any) -> Iterator[Counter]:
    """How often each part of the model runs, by name; batch elements of the UNet are counted as `clips`."""
    counts: Counter = Counter()
    parts = {"unet": pipe.unet, "clip": pipe.image_encoder, "encode": pipe.vae.encoder, "decode": pipe.vae.decoder}

    def hook(name: str) -> Callable:
        def count(module: Any, args: tuple) -> None:
            counts[name] += 1

        return count

    def silent(pipe: Any) -> Any:  # the fingerprint is one small call of each part, whatever the sweep makes
        before = counts.copy()
        found = fingerprint(pipe)
        counts.clear()
        counts.update(before)
        return found

    fingerprint, handles = identity.fingerprint, [part.register_forward_pre_hook(hook(name)) for name, part in parts.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "fingerprint", silent)
        yield counts
    for handle in handles:
        handle.remove()


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_every_row_is_the_clip_that_generate_makes(small: Any, out: Path) -> None:
    plan = plan_of(motion_bucket_id=[1, 250], seed=[0, 1]).set_index(pd.Index(list("abcd"))).assign(label_arm=[1, 2, 3, 4])
    table = sweep(small, plan, out, measure=("motion", "fidelity"))
    assert table.index.tolist() == list("abcd") and table.label_arm.tolist() == [1, 2, 3, 4]
    assert table.motion_bucket_id.tolist() == [1, 1, 250, 250] and table.seed.tolist() == [0, 1, 0, 1]
    assert set(table.status) == {"done"} and set(table.num_frames) == {FRAMES} and set(table.label) == {"random weights"}
    for _, row in table.iterrows():
        clip = svdlab.generate(small, "cat", seed=row.seed, motion_bucket_id=row.motion_bucket_id, num_inference_steps=2)
        frames = video.read_frames(row.frames)
        assert np.abs(frames / 255 - clip.frames).max() <= 0.5 / 255 + 1e-3
        assert row.drift_mse_last == pytest.approx(fidelity.drift(frames, clip.image)["drift_mse_last"])
        assert row.camera == motion.summary(frames)["camera"]
        preview = video.read_frames(row.preview)
        assert preview.shape == (FRAMES, 256, 256, 3)  # eight times, so that there is something to see


def test_a_batch_of_different_conditions_equals_one_by_one(small: Any, tmp_path: Path) -> None:
    plan = plan_of(fps=[6, 20], noise_aug_strength=[0.0, 0.5], max_guidance_scale=[2.0, 4.0], image=["cat", "coffee"])
    together = sweep(small, plan, tmp_path / "together", batch_size=8)
    alone = sweep(small, plan, tmp_path / "alone", batch_size=1)
    assert together.run_id.tolist() == alone.run_id.tolist()
    assert same(latents(together), latents(alone))
    one, other = (np.stack([video.read_frames(p) for p in t.frames]).astype(int) for t in (together, alone))
    assert np.abs(one - other).max() <= 1
    assert len({frames.tobytes() for frames in other}) == len(plan)  # none is another's clip


def test_rows_that_cannot_share_a_call_share_a_plan(small: Any, out: Path) -> None:
    rows = [{"num_frames": 3}, {"max_guidance_scale": 1.0}, {"height": 48}, {"num_inference_steps": 3}, {"seed": 5}]
    table = sweep(small, [{"num_inference_steps": 2, **row} for row in rows], out, batch_size=4)
    shapes = [video.read_frames(path).shape for path in table.frames]
    assert shapes == [(3, SIDE, SIDE, 3), *[(FRAMES, SIDE, SIDE, 3)], (FRAMES, 48, SIDE, 3), *[(FRAMES, SIDE, SIDE, 3)] * 2]


def test_every_run_and_every_encoding_is_made_once(small: Any, out: Path) -> None:
    plan = plan_of(fps=[6, 8, 10], image=["cat", "coffee"], noise_aug_strength=[0.0, 0.1], seed=[0, 1])
    with counted(small) as counts:
        table = sweep(small, pd.concat([plan, plan[::-1]], ignore_index=True), out, batch_size=4)
    assert counts["clip"] == 2 and counts["encode"] == 2 * 2 * 2
    assert counts["decode"] == len(plan) and counts["unet"] == len(plan) / 4 * 2  # two steps for each batch of four
    assert (
        table.run_id.nunique() == len(plan) and table.run_id[len(plan) :].tolist() == table.run_id[: len(plan)][::-1].tolist()
    )


# --- going on ---------------------------------------------------------------------------------------------------------


def brightness(clip: svdlab.Clip) -> float:
    return clip.frames.mean()


def range_of(clip: svdlab.Clip) -> dict[str, float]:
    return {"low": clip.frames.min(), "high": clip.frames.max()}


def test_what_is_there_is_not_made_again_and_can_be_read(small: Any, out: Path) -> None:
    first = sweep(small, plan_of(seed=[0, 1]), out, measure="motion")
    with counted(small) as counts:
        pd.testing.assert_frame_equal(sweep(small, plan_of(seed=[0, 1]), out, measure="motion"), first)
        assert not counts
        more = sweep(small, plan_of(seed=[0, 1, 2]), out, measure="motion")
    assert counts["decode"] == 1 and more.run_id.tolist()[:2] == first.run_id.tolist()
    read = svdlab.load_results(out).set_index("run_id").loc[more.run_id]
    assert read.flow_px.tolist() == more.flow_px.tolist() and read.frames.tolist() == more.frames.tolist()


def test_a_new_measure_runs_no_model(small: Any, tmp_path: Path) -> None:
    plan = plan_of(seed=[0, 1])
    sweep(small, plan, tmp_path / "a", measure="motion")
    with counted(small) as counts:
        later = sweep(small, plan, tmp_path / "a", measure=("motion", "fidelity", brightness, range_of))
    assert not counts and ledger.inspect(tmp_path / "a/runs" / later.run_id[0])[1] == {}
    at_once = sweep(small, plan, tmp_path / "b", measure=("motion", "fidelity", brightness, range_of))
    columns = ["drift_slope", "warp_error", "brightness", "range_of_low", "range_of_high"]
    pd.testing.assert_frame_equal(later[columns], at_once[columns], rtol=1e-2)  # batches of the two studies are the same
    assert later.brightness[0] == pytest.approx(video.read_frames(later.frames[0]).mean() / 255)


@pytest.mark.parametrize("error", [OutOfMemoryError, BrokenClipError, ZeroDivisionError])
def test_a_failed_decoding_costs_no_denoising(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch, error: type) -> None:
    plan, whole = plan_of(seed=[0, 1]), sweep(small, plan_of(seed=[0, 1]), out.with_name("whole"))

    def fail(pipe: Any, clip: Any, **how: Any) -> None:
        raise error("no")

    monkeypatch.setattr(workers, "decode_clip", fail)
    if error is BrokenClipError:
        assert set(sweep(small, plan, out).status) == {"failed"}
    else:
        with pytest.raises(error):
            sweep(small, plan, out)
    monkeypatch.undo()
    damaged, steps = error is ZeroDivisionError, 2
    if damaged:
        path = sorted((out / "runs").glob(".*.latents"))[0]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with counted(small) as counts:
        table = sweep(small, plan, out, retry_failed=True)
    assert counts["unet"] == damaged * steps and counts["decode"] == 2 and table.run_id.tolist() == whole.run_id.tolist()
    assert (latents(table) - latents(whole)).abs().max() < damaged * 1e-2 + 1e-9
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(table.run_id)


def test_a_damaged_run_is_made_again(small: Any, out: Path) -> None:
    table = sweep(small, plan_of(seed=[0, 1, 2]), out, keep=("denoised",))
    Path(table.preview[0]).write_bytes(b"cut off")
    with pytest.warns(ledger.DamagedRunWarning, match=table.run_id[0]), counted(small) as counts:
        sweep(small, plan_of(seed=[0, 1, 2]), out, keep=("denoised",))
    assert counts["decode"] == 1
    for name, run_id in zip((ledger.TRACE, ledger.FRAMES, ledger.RECORD), table.run_id, strict=True):
        path = out / "runs" / run_id / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    assert set(ledger.check(out).run_id) == set(table.run_id)
    with counted(small) as counts:
        again = sweep(small, plan_of(seed=[0, 1, 2]), out, keep=("denoised",))
    assert counts["decode"] == 3 and ledger.check(out).empty and again.run_id.tolist() == table.run_id.tolist()


# --- rows that fail ---------------------------------------------------------------------------------------------------


def test_a_broken_clip_is_recorded_and_the_others_go_on(small: Any, out: Path) -> None:
    plan = plan_of(max_guidance_scale=[3.0, 3e38, 2.0])  # guidance overflows: NaN
    table = sweep(small, plan, out, measure=("motion", brightness), batch_size=3)
    assert table.status.tolist() == ["done", "failed", "done"] and "NaN" in table.reason[1] and table.frames[1] == ""
    assert table.brightness.notna().tolist() == [True, False, True]
    with counted(small) as counts:
        sweep(small, plan, out, measure=("motion", brightness))
        assert not counts  # it would come out the same
        sweep(small, plan, out, measure=("motion", brightness), retry_failed=True)
    assert counts["unet"] and not counts["decode"] and ledger.check(out).empty


def test_a_measure_that_raises_costs_no_clip(small: Any, out: Path) -> None:
    def fussy(clip: svdlab.Clip) -> float:
        if clip.seed == 1:
            raise ValueError("not this one")
        return 1.0

    table = sweep(small, plan_of(seed=[0, 1, 2]), out, measure=(fussy, brightness))
    assert table.status.tolist() == ["done", "failed", "done"] and table.brightness.notna().all()
    assert table.reason[1] == "measure fussy: ValueError: not this one" and Path(table.frames[1]).exists()

    def fussy(clip: svdlab.Clip) -> float:  # type: ignore[no-redef]
        return 3.0

    with counted(small) as counts:
        table = sweep(small, plan_of(seed=[0, 1, 2]), out, measure=(fussy, brightness))
    assert not counts and table.fussy.tolist() == [3.0] * 3 and set(table.status) == {"done"} and set(table.reason) == {""}


def failing(clip: svdlab.Clip) -> float:
    raise ValueError("never")


def test_a_measure_that_is_given_up_leaves_no_run_failed(small: Any, out: Path) -> None:
    assert sweep(small, plan_of(seed=[0]), out, measure=(failing, brightness)).status.tolist() == ["failed"]
    with counted(small) as counts:
        table = sweep(small, plan_of(seed=[0]), out, measure=brightness)
    assert not counts and table.status.tolist() == svdlab.load_results(out).status.tolist() == ["done"]
    assert table.reason.tolist() == [""] and table.brightness.notna().all()


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_traced_run_holds_what_trace_keeps(small: Any, out: Path) -> None:
    plain = sweep(small, plan_of(seed=[0, 1]), out)
    table = sweep(small, plan_of(seed=[0, 1]), out, keep={"keep": ("latents", "next_latents"), "steps": [1]})
    assert table.run_id.tolist() == plain.run_id.tolist() and set(plain.trace) == {""}
    for run_id, z in zip(table.run_id, latents(table), strict=True):
        tr = svdlab.Trace.load(out / "runs" / run_id / ledger.TRACE)
        assert [step.index for step in tr] == [1] and tr.batch == 1 and tr.label == "random weights"
        assert torch.equal(tr["next_latents"][0], z)
    with counted(small) as counts:
        assert sweep(small, plan_of(seed=[0, 1]), out).trace.all() and not counts  # more than asked for is enough


def test_a_run_that_is_made_again_for_its_trace_keeps_what_was_measured(small: Any, out: Path) -> None:
    before = sweep(small, plan_of(seed=[0]), out, measure=(brightness, "motion"))
    after = sweep(small, plan_of(seed=[0]), out, measure=range_of, keep=("latents",))
    assert after.trace.all() and after.range_of_low.notna().all()
    assert after[["brightness", "flow_px"]].equals(before[["brightness", "flow_px"]])


def test_an_edited_model_has_ids_of_its_own(small: Any, out: Path) -> None:
    plan = plan_of(seed=[0])
    plain = sweep(small, plan, out)
    with svdlab.edit(small, EDITED, lambda value, step: 0 * value):
        with pytest.raises(InputError, match="intervention="):
            sweep(small, plan, out)
        edited = sweep(small, plan, out, intervention="no temporal attention in the middle")
    assert edited.run_id[0] != plain.run_id[0] and not torch.equal(latents(edited), latents(plain))
    assert edited.intervention[0] == "no temporal attention in the middle"


def test_every_fact_is_in_the_id(small: Any, out: Path) -> None:
    rows = [{}, {"seed": 1}, {"fps": 8}, {"guidance_curve": "triangle"}, {"image": "coffee"}, {"playback_fps": 5.0}]
    rows += [{"guidance_interval": (0.1, 5.0)}, {"decode_chunk_size": 1}, {"min_guidance_scale": 2.0}, {"width": 48}]
    rows += [{"motion_bucket_id": 3}, {"noise_aug_strength": 0.5}, {"num_inference_steps": 1}, {"num_frames": 2}]
    table = sweep(small, [{"image": "cat", "num_inference_steps": 2, **row} for row in rows], out)
    assert table.run_id.is_unique


def test_the_picture_counts_by_its_pixels(small: Any, out: Path, tmp_path: Path) -> None:
    picture = svdlab.sample_image("cat").resize((SIDE, SIDE))
    picture.save(tmp_path / "one.png")
    picture.save(tmp_path / "two.png")
    rows = [{"image": str(tmp_path / "one.png")}, {"image": str(tmp_path / "two.png")}, {"image": picture}]
    table = sweep(small, [{"num_inference_steps": 1, **row} for row in rows], out)
    assert table.run_id.nunique() == 1 and table.image[0].endswith("one.png") and table.image[2].startswith("image-")


def test_a_plan_may_flip_the_noise(small: Any, out: Path) -> None:
    table = sweep(small, [{"num_inference_steps": 2, "flip_noise": flip} for flip in ("", "left_right", None)], out)
    assert table.run_id.nunique() == 2 and table.run_id[0] == table.run_id[2]
    assert (latents(table)[0] - latents(table)[1]).abs().max() > 0.1


def test_a_plan_may_say_what_a_clip_starts_from(small: Any, out: Path) -> None:
    one, two = (torch.randn(FRAMES, 4, SIDE // small.vae_scale_factor, SIDE // small.vae_scale_factor) for _ in range(2))
    rows = [{}, {"start_noise": one}, {"start_noise": two}, {"start_latents": 700 * one}, {"start_noise": one.clone()}]
    table = sweep(small, [{"num_inference_steps": 2, **row} for row in rows], out)
    assert table.run_id.nunique() == 4 and table.run_id[1] == table.run_id[4]
    clip = svdlab.generate(small, "cat", num_inference_steps=2, noise=two)
    assert same(latents(table)[2], clip.latents)


# --- side by side -----------------------------------------------------------------------------------------------------


DECODED: list[int] = []
SEEN: list[int] = []


def slow(clip: svdlab.Clip) -> int:
    time.sleep(0.1)
    SEEN.append(len(DECODED) - len(SEEN))
    return threading.get_ident()


@pytest.mark.parametrize("threads", [1, 2])
def test_at_most_two_clips_are_in_memory(small: Any, out: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    plain = workers.decode_clip
    monkeypatch.setattr(workers, "decode_clip", lambda *args, **how: DECODED.append(1) or plain(*args, **how))
    DECODED.clear(), SEEN.clear()
    table = sweep(small, plan_of(seed=range(8)), out, measure=slow, batch_size=3, threads=threads)
    assert len(SEEN) == 8 and max(SEEN) == 2, SEEN
    assert table.slow.nunique() == 1 and table.slow[0] != threading.get_ident()  # measured beside the denoising


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2  # a sweep gives them back, however it ends
    torch.set_num_threads(before)


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("svdlab")]


@contextmanager
def makers(pipe: Any) -> Iterator[Counter]:
    """How many calls of the UNet each thread makes."""
    calls: Counter = Counter()
    handle = pipe.unet.register_forward_pre_hook(lambda *args: calls.update([threading.current_thread().name]))
    yield calls
    handle.remove()
    calls["MainThread"] -= 2  # the fingerprint


def test_two_threads_on_one_pipeline_make_the_same_clips(small: Any, tmp_path: Path, two_threads: None) -> None:
    plan, how = plan_of(seed=range(8), motion_bucket_id=[1, 250]), dict(measure="fidelity", keep=("denoised",), batch_size=2)
    with makers(small) as calls:
        two = sweep(small, plan, tmp_path / "two", threads=2, **how)
    assert set(two.status) == {"done"} and ledger.check(tmp_path / "two").empty and helpers() == []
    assert calls.pop("MainThread") == 0 and len(calls) == 2 and min(calls.values()) >= 4  # batches of two steps
    assert {ledger.read_record(tmp_path / "two/runs" / run)["device"] for run in two.run_id} == {"cpu, 1 threads"}
    assert sorted(p.name for p in (tmp_path / "two/runs").iterdir()) == sorted(two.run_id)  # no lock, no temporary folder
    torch.set_num_threads(1)
    one = sweep(small, plan, tmp_path / "one", threads=1, **how)
    torch.set_num_threads(2)
    assert one.run_id.tolist() == two.run_id.tolist()
    for read in (lambda row: load_file(row.latents)["latents"], lambda row: svdlab.Trace.load(row.trace).denoised):
        a, b = (np.stack([np.asarray(read(row)) for row in table.itertuples()]) for table in (one, two))
        assert np.abs(a - b).max() < 1e-3 * np.abs(a).max()
    np.testing.assert_allclose(one.drift_mse_last, two.drift_mse_last, rtol=1e-2)


def press(clip: svdlab.Clip) -> int:
    if clip.seed == 3:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return 1


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_lets_every_thread_finish_what_it_has_in_hand(
    small: Any, out: Path, two_threads: None, capfd: pytest.CaptureFixture, threads: int
) -> None:
    before, plan = signal.getsignal(signal.SIGINT), plan_of(seed=range(20))
    with pytest.raises(SweepInterrupted, match=r"of 20 clips are whole .* again to go on"):
        sweep(small, plan, out, measure=press, threads=threads, batch_size=2)
    assert signal.getsignal(signal.SIGINT) is before and "in hand" in capfd.readouterr().err and helpers() == []
    made = ledger.run_ids(out)
    assert 4 <= len(made) < 20 and ledger.check(out).empty and issubclass(SweepInterrupted, KeyboardInterrupt)
    assert sorted(p.name for p in (out / "runs").iterdir()) == made
    with counted(small) as counts:
        assert set(sweep(small, plan, out).status) == {"done"} and counts["decode"] == 20 - len(made)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_second_ctrl_c_ends_every_thread_in_the_middle_of_its_batch(
    small: Any, out: Path, two_threads: None, threads: int
) -> None:
    presses = []

    def press_twice() -> None:
        while (threads > 1 and len(helpers()) < threads) or not list((out / "runs").glob(".*.lock")):
            time.sleep(0.01)
        for _ in range(2):
            time.sleep(0.5)
            presses.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_twice, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        sweep(small, plan_of(seed=range(4), num_inference_steps=2000), out, threads=threads, batch_size=2)
    assert time.monotonic() - presses[-1] < 10, "a batch takes a minute and more"
    assert list((out / "runs").iterdir()) == [] and helpers() == []


@pytest.mark.parametrize("guilty", ["svdlab_0", "svdlab_1", "svdlab-writer_0"])
def test_what_goes_wrong_in_any_thread_ends_the_sweep(
    small: Any, out: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch, guilty: str
) -> None:
    """A disk that fills up is tests/slow's; here it is a fault of our own, which must not be taken for the end of the work."""

    def faulty(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == guilty:
                raise ZeroDivisionError("a fault")
            return real(*args, **kwargs)

        return call

    for name in ("generate_batch", "measure_clip"):
        monkeypatch.setattr(workers, name, faulty(getattr(workers, name)))
    with pytest.raises(ZeroDivisionError, match="a fault"):
        sweep(small, plan_of(seed=range(24)), out, threads=2, batch_size=2)
    assert ledger.check(out).empty and helpers() == [] and not list((out / "runs").glob(".*.lock"))
    monkeypatch.undo()
    table = sweep(small, plan_of(seed=range(24)), out)
    assert set(table.status) == {"done"} and sorted(p.name for p in (out / "runs").iterdir()) == sorted(table.run_id)


@pytest.mark.parametrize("name", ["generate_batch", "decode_clip"])
def test_where_memory_suffices_for_one_thread_only_one_goes_on(
    small: Any, out: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Real shortage of memory is tests/slow's; this is what comes of it where two clips at once are too many."""
    plain, busy, refused = getattr(workers, name), threading.Semaphore(1), []

    def short(*args: Any, **kwargs: Any) -> Any:
        if not busy.acquire(blocking=False):
            refused.append(1)
            raise OutOfMemoryError("one clip did not fit")
        try:
            time.sleep(0.1)  # so that the other one comes meanwhile
            return plain(*args, **kwargs)
        finally:
            busy.release()

    monkeypatch.setattr(workers, name, short)
    with pytest.warns(UserWarning, match="did not suffice for all"):
        table = sweep(small, plan_of(seed=range(4)), out, threads=2, batch_size=1)
    assert refused and set(table.status) == {"done"} and ledger.check(out).empty


def test_a_clip_that_fits_nowhere_is_reported(
    small: Any, out: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def short(pipe: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(images))
        raise OutOfMemoryError("one clip did not fit")

    monkeypatch.setattr(workers, "generate_batch", short)
    with pytest.raises(OutOfMemoryError, match="did not fit"):
        sweep(small, plan_of(seed=range(8)), out, threads=1, batch_size=8)
    assert sizes == [8, 4, 2, 1] and list((out / "runs").iterdir()) == []
    with pytest.warns(UserWarning, match="did not suffice"), pytest.raises(OutOfMemoryError, match="did not fit"):
        sweep(small, plan_of(seed=range(8)), out, threads=2, batch_size=1)
    assert helpers() == [] and list((out / "runs").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("engine", ["threads", "dask"])
def test_an_executors_workers_make_the_same_table(small: Any, tmp_path: Path, engine: str) -> None:
    plan = plan_of(seed=range(5), image=["cat", "coffee"])
    here = sweep(small, plan, tmp_path / "here", measure="fidelity")
    if engine == "threads":
        with ThreadPoolExecutor(2) as executor:
            there = sweep(small, plan, tmp_path / "there", measure="fidelity", executor=executor, batch_size=1)
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **LOCAL) as cluster,
            distributed.Client(cluster) as client,
        ):
            there = sweep(small, plan, tmp_path / "there", measure="fidelity", executor=client.get_executor(), batch_size=1)
    assert there.run_id.tolist() == here.run_id.tolist() and set(there.status) == {"done"}
    assert same(latents(there), latents(here))
    assert ledger.check(tmp_path / "there").empty


# --- what files say of themselves -------------------------------------------------------------------------------------


def test_previews_and_exports_say_that_a_model_made_them(small: Any, out: Path, tmp_path: Path) -> None:
    table = sweep(small, plan_of(seed=[0, 1]), out)
    run_id = table.run_id[0]
    to = ledger.export(out, tmp_path / "for-you")
    exported = sorted((to / "previews").glob("*.mp4"))
    for path in (Path(table.preview[0]), next(p for p in exported if run_id[:8] in p.name)):
        facts = video.read_tags(path)
        assert (facts["run_id"], facts["seed"], facts["conditions"]["num_inference_steps"]) == (run_id, 0, 2)
        assert facts["source"]["checkpoint"] == Path(small.source.checkpoint).name
        assert facts["source"]["label"] == "random weights"
    beside = json.loads(exported[0].with_name(exported[0].name + ".json").read_text())
    assert beside == video.read_tags(exported[0]) and "licence" in (to / "README.txt").read_text()
    assert (to / "NOTICE").read_text() == video.notice()
    assert video.read_frames(exported[0]).shape == (FRAMES, 256, 256, 3)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "how", "said"),
    [
        ([{"speed": 1}], {}, "unknown column 'speed'"),
        ([{"fps": 0}], {}, "row 0 of the plan: fps=0"),
        ([{}, {"max_guidance_scale": float("nan")}], {}, "row 1 of the plan: max_guidance_scale=nan"),
        ([{"height": 40}], {}, "multiples of 16"),
        ([{"seed": -1}], {}, "seed=-1"),
        ([{"seed": 0.5}], {}, "seed=0.5"),
        ([{}], {"image": None}, "no image"),
        ([{"image": "no-such-file.png"}], {}, "No such file"),
        ([{}], {"measure": "speed"}, "measure 'speed': give motion"),
        ([{}], {"keep": ("everything",)}, "everything"),
        ([{}], {"keep": {"names": ("latents",)}}, "'names' is no argument of svdlab.trace: give keep, modules"),
        ([{}], {"keep": {"steps": -1}}, "steps=-1: give step numbers"),
        ([{}], {"batch_size": 0}, "batch_size=0"),
        ([{}], {"executor": 2}, "executor is a int"),
        ([{}], {"devices": "some"}, "devices='some': give a list"),
        ([{}], {"devices": ["cuda:99"]}, "give one of cpu"),
        ([{}], {"devices": ["cpu"], "executor": ThreadPoolExecutor(1)}, "executor= or devices="),
        ([{}], {"threads": 0}, "threads=0: give a whole number"),
        ([{}, {"seed": 1}], {"threads": 2, "executor": ThreadPoolExecutor(1)}, "bring workers of their own"),
        ([{"start_noise": "noise.pt"}], {}, "start_noise='noise.pt'"),
        ([{"flip_noise": "mirror"}], {}, "flip_noise='mirror'"),
        ([{"flip_noise": ["left_right"]}], {}, "flip_noise="),
        (7, {}, "plan is a int"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_model_runs(small: Any, out: Path, plan: Any, how: Any, said: str) -> None:
    with counted(small) as counts, pytest.raises(InputError, match=said):
        sweep(small, plan, out, **how)
    assert not counts and not out.exists()


@pytest.mark.filterwarnings("always")
def test_a_warning_names_the_line_outside_svdlab_that_led_to_it(small: Any, out: Path) -> None:
    wide, plan = np.zeros((SIDE, 2 * SIDE, 3), np.uint8), plan_of(motion_bucket_id=300, seed=[0])
    with pytest.warns(UserWarning) as said:
        svdlab.generate(small, wide, num_inference_steps=1, motion_bucket_id=300)
        svdlab.sweep(small, plan, out, image=wide, measure=(), progress=False)
        svdlab.steps_needed(small, svdlab.grid(seed=[0]), image=wide, steps=(1,), reference=2, within=5, progress=False)
    own = [w for w in said if w.category.__module__.startswith("svdlab")]
    assert {w.filename for w in own} == {__file__} and len({w.lineno for w in own}) == 3
    assert {w.category.__name__ for w in own} == {"CropWarning", "UnusualConditionWarning"}


def test_unusual_conditions_are_warned_of_once(small: Any, out: Path) -> None:
    with pytest.warns(UserWarning) as said:
        sweep(small, plan_of(motion_bucket_id=300, seed=range(4)), out)
    assert sum("300 is above 255" in str(w.message) for w in said) == 1
