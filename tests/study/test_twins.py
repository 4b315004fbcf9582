"""Several threads make one sweep on one set of weights: the same clips, each once, whatever ends one of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import svdlab
from svdlab.errors import InputError, OutOfMemoryError, SweepInterrupted
from svdlab.study import folders, ledger, runs, twins, workers
from tests.small import save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::svdlab.pipeline.images.CropWarning", "ignore:__array__ implementation")
ROWS = [{"num_inference_steps": 2, "seed": seed, "guidance_curve": (1.0, 1.5, 2.0, 3.0)} for seed in range(24)]


@pytest.fixture
def small(tmp_path: Path) -> Any:
    return svdlab.load_pipeline(save_checkpoint(tmp_path / "checkpoint" / "small"), device="cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2  # a sweep gives them back, however it ends
    torch.set_num_threads(before)


def makers(out: Path) -> Counter:
    """How many runs each thread made."""
    return Counter(folders.read_record(out / "runs" / run)["thread"] for run in folders.run_ids(out))


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("svdlab-")]


def test_two_threads_make_each_clip_once_and_the_same(small: Any, tmp_path: Path) -> None:
    out, how = tmp_path / "two", dict(image="cat", measure="fidelity", keep=("denoised",), progress=False)
    two = svdlab.sweep(small, ROWS, out, threads=2, batch_size=2, **how)
    assert set(two.status) == {"done"} and ledger.check(out).empty
    made = makers(out)
    assert len(made) == 2 and made.total() == len(ROWS) and min(made.values()) >= 4
    assert {folders.read_record(out / "runs" / run)["device"] for run in two.run_id} == {"cpu, 1 threads"}
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(two.run_id)  # no lock, no temporary folder
    one = svdlab.sweep(small, ROWS, tmp_path / "one", threads=1, **how)
    assert makers(tmp_path / "one") == {"MainThread": len(ROWS)} and one.run_id.tolist() == two.run_id.tolist()
    for read in (lambda row: load_file(row.latents)["latents"], lambda row: svdlab.Trace.load(row.trace).denoised):
        a, b = (np.stack([np.asarray(read(row)) for row in table.itertuples()]) for table in (one, two))
        assert np.abs(a - b).max() < 1e-3 * np.abs(a).max()
    np.testing.assert_allclose(one.drift_mse_last, two.drift_mse_last, rtol=1e-2)
    assert helpers() == []


def test_by_itself_a_sweep_takes_as_many_threads_as_torch_has(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    how = dict(image="cat", measure=(), batch_size=1, progress=False)
    svdlab.sweep(small, ROWS[:12], tmp_path / "auto", **how)
    assert len(makers(tmp_path / "auto")) == 2
    svdlab.sweep(small, ROWS[:1], tmp_path / "single", **how)  # which is made with all of torch's threads
    record = folders.read_record(next((tmp_path / "single" / "runs").iterdir()))
    assert (record["thread"], record["device"]) == ("MainThread", "cpu, 2 threads")
    monkeypatch.setattr(twins, "free_memory", lambda device: 1.9 * twins.need_of(small, svdlab.Conditions(num_frames=4)))
    jobs = [runs.Job(str(n), str(n), svdlab.Conditions(num_frames=4), n, "", "") for n in range(9)]
    assert twins.twins_of(small, jobs, runs.How({}), None) == []  # 0.7 of what is free holds one
    assert len(twins.twins_of(small, jobs, runs.How({}), 3)) == 2  # whoever asks for three gets three


def test_a_twin_shares_the_numbers_and_nothing_else(small: Any) -> None:
    other = twins.twin(small)
    for part in ("unet", "vae", "image_encoder"):
        one, two = (dict(getattr(pipe, part).state_dict()) for pipe in (small, other))
        assert one.keys() == two.keys() and all(one[k].data_ptr() == two[k].data_ptr() for k in one)
        assert not set(map(id, getattr(small, part).modules())) & set(map(id, getattr(other, part).modules()))
    assert other.source == small.source and other.scheduler is not small.scheduler
    calls = []
    other.unet.conv_in.register_forward_hook(lambda *args: calls.append(1))
    svdlab.generate(small, "cat", num_inference_steps=1)
    assert calls == []
    other.vae.to(torch.float64)
    assert small.vae.dtype == torch.float32 and small.vae.encoder.conv_in.weight.dtype == torch.float32
    with torch.no_grad():
        small.unet.conv_in.weight.zero_()
    assert other.unet.conv_in.weight.abs().sum() == 0


def test_a_twin_made_while_faster_convolutions_stand_in_has_its_own(small: Any) -> None:
    from svdlab.pipeline.temporal import quick_convolutions

    with quick_convolutions(small):
        other = twins.twin(small)
    assert not any("forward" in vars(module) for part in (other.unet, other.vae) for module in part.modules())


def test_two_threads_hold_two_decoded_clips_at_most(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    plain, decoded, seen = workers.decode_clip, [], []

    def counting(*args: Any) -> None:
        decoded.append(1)
        plain(*args)

    def slow(clip: svdlab.Clip) -> int:
        time.sleep(0.1)
        seen.append(len(decoded) - len(seen))
        return 1

    monkeypatch.setattr(workers, "decode_clip", counting)
    svdlab.sweep(small, ROWS[:12], tmp_path / "study", image="cat", measure=slow, threads=2, batch_size=3, progress=False)
    assert len(seen) == 12 and max(seen) == 2, seen


def test_ctrl_c_lets_every_thread_finish_what_it_has_in_hand(small: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"

    def press(clip: svdlab.Clip) -> int:
        if len(folders.run_ids(out)) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return 1

    with pytest.raises(SweepInterrupted, match="again to go on"):
        svdlab.sweep(small, ROWS, out, image="cat", measure=press, threads=2, batch_size=2, progress=False)
    made = folders.run_ids(out)
    assert 4 <= len(made) < len(ROWS) and ledger.check(out).empty and helpers() == []
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(made)
    assert set(svdlab.sweep(small, ROWS, out, image="cat", measure=(), progress=False).status) == {"done"}


def test_a_second_ctrl_c_ends_a_twin_in_the_middle_of_its_batch(small: Any, tmp_path: Path) -> None:
    out, plan = tmp_path / "study", [{**row, "num_inference_steps": 2000} for row in ROWS[:4]]
    presses = []

    def press() -> None:
        while len(helpers()) < 2:  # the twin's, and the one that writes
            time.sleep(0.01)
        for _ in range(2):
            time.sleep(0.5)
            presses.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        svdlab.sweep(small, plan, out, image="cat", measure=(), threads=2, batch_size=2, progress=False)
    assert time.monotonic() - presses[-1] < 5, "a batch takes a minute and more"
    assert folders.run_ids(out) == [] and helpers() == [] and list((out / "runs").iterdir()) == []


def test_what_goes_wrong_in_a_twins_thread_is_said_by_the_sweep(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A disk that fills up is tests/slow's; here it is a fault of our own, which must not be taken for the end of the work."""
    plain, out = workers._make_batch, tmp_path / "study"

    def faulty(pipe: Any, batch: Any, writer: Any) -> None:
        if pipe is not small:
            raise ZeroDivisionError("a fault")
        plain(pipe, batch, writer)

    monkeypatch.setattr(workers, "_make_batch", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        svdlab.sweep(small, ROWS, out, image="cat", measure=(), threads=2, batch_size=2, progress=False)
    assert ledger.check(out).empty and helpers() == []
    assert sorted(p.name for p in (out / "runs").iterdir()) == sorted(folders.run_ids(out))
    monkeypatch.undo()
    assert set(svdlab.sweep(small, ROWS, out, image="cat", measure=(), progress=False).status) == {"done"}


@pytest.mark.parametrize("where", ["denoising", "decoding"])
def test_where_memory_does_for_one_thread_only_one_goes_on(small: Any, tmp_path: Path, monkeypatch: Any, where: str) -> None:
    """Real shortage of memory is tests/slow's; this is what comes of it where two clips at once are too many."""
    name = {"denoising": "generate_batch", "decoding": "decode_clip"}[where]
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
    how = dict(image="cat", measure=(), threads=2, batch_size=1, progress=False)
    with pytest.warns(workers.FewerThreadsWarning, match="did not do for all"):
        table = svdlab.sweep(small, ROWS[:8], tmp_path / "study", **how)
    assert refused and set(table.status) == {"done"} and ledger.check(tmp_path / "study").empty
    assert makers(tmp_path / "study").total() == 8


def test_a_clip_that_fits_nowhere_is_said(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def short(*args: Any, **kwargs: Any) -> Any:
        raise OutOfMemoryError("one clip did not fit")

    monkeypatch.setattr(workers, "generate_batch", short)
    with pytest.raises(OutOfMemoryError, match="did not fit"):
        svdlab.sweep(small, ROWS[:8], tmp_path / "study", image="cat", measure=(), threads=2, batch_size=1, progress=False)
    assert helpers() == [] and list((tmp_path / "study" / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("threads", "said"),
    [(0, "threads=0: give a whole number"), (True, "threads=True"), ("all", "threads='all'"), (1.5, "threads=1.5")],
)
def test_a_number_of_threads_that_is_none_is_refused(small: Any, tmp_path: Path, threads: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        svdlab.sweep(small, ROWS[:2], tmp_path / "study", image="cat", threads=threads)
    assert not (tmp_path / "study").exists()


def test_why_batches_are_made_one_after_the_other(small: Any, tmp_path: Path) -> None:
    how = runs.How(runs.facts(small))
    assert twins.why_not(small, how, None) == ""
    assert "executor=" in twins.why_not(small, how, object())
    assert "edits" in twins.why_not(small, runs.How(runs.facts(small, "no attention")), None)
    seen = []
    handle = small.unet.conv_in.register_forward_hook(lambda *args: seen.append(threading.current_thread().name))
    assert "hooks" in twins.why_not(small, how, None)
    with pytest.raises(InputError, match="threads=2: this sweep cannot be shared out among threads: there are hooks"):
        svdlab.sweep(small, ROWS[:4], tmp_path / "study", image="cat", threads=2)
    svdlab.sweep(small, ROWS[:4], tmp_path / "study", image="cat", measure=(), batch_size=1, progress=False)
    assert len(seen) == 8 and set(seen) == {"MainThread"}  # a user's hook sees every call of the UNet
    handle.remove()
    assert twins.checked_threads("auto", "") is None and twins.checked_threads("auto", "hooks") == 1
    assert twins.checked_threads(2, "") == 2


def test_the_last_batches_are_small_so_that_threads_end_together() -> None:
    queue = deque(workers._units([runs.Job(f"{n}", f"{n}", svdlab.Conditions(), n, "", "") for n in range(40)]))
    line = workers._Line(queue, 4, 2, lambda: False, None)  # type: ignore[arg-type]
    sizes = []
    while queue:
        sizes.append(line._next_size())
        for _ in range(sizes[-1]):
            queue.popleft()
    assert sizes == [4] * 7 + [3, 3, 2, 1, 1, 1, 1]
    assert workers._Line(deque(), 4, 1, lambda: False, None)._next_size() == 4  # type: ignore[arg-type]
