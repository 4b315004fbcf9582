"""Hostile folders, and every reader that takes one, watched: run by tests/test_hostile.py in a process of its own.

    python tests/hostile.py FOLDER        # prints one line of JSON

`FOLDER/outside` holds what must not be touched: inotify tells whether anything there was opened, by native code or by ffmpeg
as well. Python's audit events tell what else was read, written, started, connected to or executed.
"""

import base64
import contextlib
import ctypes
import faulthandler
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import svdlab
import svdlab.__main__ as command
from svdlab import show, widgets
from svdlab.errors import SvdlabError
from svdlab.measure import reading, video
from svdlab.pipeline import doctor
from svdlab.pipeline.conditions import conditions_of
from svdlab.pipeline.trace import Trace
from svdlab.probes import Stimuli, bias
from svdlab.study import ledger, notebooks, pairs, plans
from svdlab.study.compare import compare
from svdlab.study.sweep import missing
from tests.small import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(sys.argv[1]).resolve()
INSIDE, OUTSIDE, TEMPORARY = (FOLDER / name for name in ("inside", "outside", "tmp"))
OWN = [ROOT, sys.prefix, sys.base_prefix, "/work/main", "/usr", "/lib", "/proc", "/sys"]
OWN += ["/dev/shm", "/dev/null", "/dev/urandom"]
READ = [INSIDE, TEMPORARY, *map(os.path.realpath, OWN), "/etc/localtime", "/etc/ssl", "/etc/mime.types", "/etc/fonts"]
WRITTEN = [INSIDE, TEMPORARY, "/dev/null", "/dev/shm", "/proc"]
EVIL = "\x1b[31m<img src=https://x.org/a.png onerror=alert(1)>![x](/etc/hostname)\n=cmd()"
SPRUNG = INSIDE / "sprung"
PICKLE = b"\x80\x02cos\nsystem\nX" + len(t := f"touch {SPRUNG}".encode()).to_bytes(4, "little") + t + b"\x85R."
CHANGES = [f"os.{name}" for name in ["rename", "remove", "rmdir", "mkdir", "link", "chmod", "utime", "truncate", "symlink"]]
LIMIT = 40  # s of one call, on a machine that does other things as well: none waits for a pipe
ROWS = [{"num_inference_steps": 1, "seed": seed} for seed in range(2)]


class Hung(BaseException):
    pass


# --- what happens -----------------------------------------------------------------------------------------------------

found: dict[str, list[str]] = {"outside": [], "raw": [], "hung": [], "printed": [], "ran": [], "refused": []}
case = ""
looking = False


def lies(path: Any, places: list[Any], *, follow: bool = True) -> bool:
    """Whether a path leads into one of some places; follow=False: whether the name itself is there, as of a link."""
    folder, name = os.path.split(os.fsdecode(path))
    real = os.path.realpath(os.fsdecode(path)) if follow else os.path.join(os.path.realpath(folder or "."), name)
    return any(real == str(place) or real.startswith(f"{place}/") for place in places)


def forbidden(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        path, _, flags = args
        write = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        return not isinstance(path, int) and not lies(
            path, WRITTEN if write else READ, follow=not (flags or 0) & os.O_NOFOLLOW
        )
    if event in ("os.listdir", "os.scandir"):
        return not isinstance(args[0], int) and not lies(args[0] or ".", READ)
    if event in CHANGES:
        names = args[1:2] if event == "os.symlink" else args[:2] if event in ("os.rename", "os.link") else args[:1]
        relative = any(isinstance(value, int) and value >= 0 for value in args[1:])  # to a folder that is open
        return not relative and not all(isinstance(name, int) or lies(name, WRITTEN, follow=False) for name in names)
    if event == "shutil.rmtree":
        return not lies(args[0], WRITTEN, follow=False)
    if event.startswith("shutil."):
        return not (lies(args[0], READ) and lies(args[1], WRITTEN, follow=False))
    if event == "subprocess.Popen":
        files = [arg[5:] for arg in map(str, args[1]) if arg.startswith("file:")]
        return "ffmpeg" not in str(args[0]) or not all(lies(file, READ) for file in files)
    if event == "socket.connect":
        return isinstance(args[1], tuple) and not str(args[1][0]).startswith(("127.", "::1"))
    if event in ("exec", "import", "compile"):
        name = args[0].co_filename if event == "exec" else args[1]
        made = isinstance(name, str) and name.startswith("<")  # by a library, of its own text
        return bool(name) and ("sprung" in str(args[0]) or (not made and lies(name, [INSIDE, OUTSIDE])))
    if event == "ctypes.dlopen":
        return bool(args[0]) and os.path.isabs(str(args[0])) and not lies(args[0], READ[2:])
    return event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class")


def listen(event: str, args: tuple[Any, ...]) -> None:
    global looking
    if looking:
        looking = False
        try:
            if forbidden(event, args):
                found["outside"].append(f"{case}: {event} {args!r}"[:300])
        finally:
            looking = True


def wait_over(number: int, frame: Any) -> None:
    raise Hung


def attempt(name: str, act: Callable[[], Any]) -> Any:
    """One call, which returns or raises one of svdlab's errors."""
    global case, looking
    case, printed, value, begun = name, io.StringIO(), None, time.monotonic()
    found["ran"].append(name)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            looking = True
            value = act()
    except (SvdlabError, SystemExit) as error:
        found["refused"].append(f"{name}: {error}")
    except Hung:
        found["hung"].append(name)
    except BaseException as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        found["raw"].append(f"{name}: {type(error).__name__}: {error} ({where and where.tb_frame.f_code.co_filename})"[:400])
    finally:
        looking = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    if any(c in printed.getvalue() for c in "\x1b\0"):
        found["printed"].append(f"{name}: {printed.getvalue()!r}"[:300])
    if os.environ.get("SLOWEST"):
        sys.stderr.write(f"{time.monotonic() - begun:.1f} {name}\n")
    return value


def run(*words: Any) -> Callable[[], None]:
    return lambda: command.main([str(word) for word in words])


# --- what is hostile --------------------------------------------------------------------------------------------------


def pipe_at(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def link_at(path: Path, target: Path | str) -> None:
    remove(path)
    path.symlink_to(target)


def remove(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copies(of: Path, into: Path, spoil: dict[str, Callable[[Path], Any]]) -> Iterator[Path]:
    for name, harm in spoil.items():
        copy = Path(shutil.copytree(of, into / name))
        harm(copy)
        yield copy


def checkpoints(good: Path) -> None:
    """Folders of checkpoints: pipes, devices and links where files should be, pickles, marked-up texts."""
    weights = "unet/diffusion_pytorch_model.safetensors"
    small = "model_index.json", "svdlab.json", "README.md", "unet/config.json", "image_encoder/config.json", weights
    small += (
        "scheduler/scheduler_config.json",
        "image_encoder/model.safetensors.index.json",
        "image_encoder/adapter_config.json",
    )
    spoil: dict[str, Callable[[Path], Any]] = {}
    for n, name in enumerate(small):
        spoil[f"pipe-{n}"] = lambda copy, name=name: pipe_at(copy / name)
        spoil[f"link-{n}"] = lambda copy, name=name: link_at(copy / name, OUTSIDE / "checkpoint" / name)
    spoil["device"] = lambda copy: link_at(copy / "unet/config.json", "/dev/zero")
    spoil["folder"] = lambda copy: link_at(copy / "unet", OUTSIDE / "checkpoint" / "unet")
    spoil["pickle"] = lambda copy: (copy / weights).write_bytes(PICKLE)
    spoil["pickle-beside"] = lambda copy: (copy / "unet/diffusion_pytorch_model.bin").write_bytes(PICKLE)
    spoil["code"] = lambda copy: [
        (copy / part / "mine.py").write_text(f"open({str(SPRUNG)!r}, 'w')") for part in (".", "unet")
    ]
    single = lambda copy: (remove(copy / "model_index.json"), copy / "svd.safetensors")[1]  # Stability's layout
    spoil["single-pipe"] = lambda copy: pipe_at(single(copy))
    spoil["single-link"] = lambda copy: link_at(single(copy), OUTSIDE / "checkpoint" / weights)
    spoil["single-pickle"] = lambda copy: single(copy).write_bytes(PICKLE)
    spoil["card"] = lambda copy: (copy / "README.md").write_text(f"---\nlicense: {json.dumps(EVIL)}\n---\n")
    spoil["label"] = lambda copy: (copy / "svdlab.json").write_text(json.dumps({"label": EVIL}))
    for copy in copies(good, INSIDE / "checkpoints", spoil):
        attempt(f"load {copy.name}", lambda copy=copy: svdlab.load_pipeline(copy, device="cpu"))
        attempt(f"conditions {copy.name}", lambda copy=copy: conditions_of(copy))
        attempt(f"doctor {copy.name}", lambda copy=copy: doctor.report(str(copy), online=False))
    for name in ("x" * 300, "a\0b", f"file://{OUTSIDE}", EVIL):
        attempt(f"load {name[:20]!r}", lambda name=name: svdlab.load_pipeline(name, local_files_only=True))
        attempt(f"command {name[:20]!r}", run("doctor", "--offline", "--checkpoint", name))
    attempt("command", run("doctor", "--offline", "--checkpoint", INSIDE / "checkpoints" / "label"))


def study_of(copy: Path, n: int = 0) -> Path:
    return copy / "runs" / ledger.run_ids(copy)[n]


def elsewhere(copy: Path) -> Path:
    return OUTSIDE / "study" / "runs" / study_of(copy).name


def files_of(copy: Path) -> dict[str, Any]:
    """What the first run's record says of its files."""
    return dict(json.loads((study_of(copy) / "run.json").read_text())["files"])


def rewrite(folder: Path, **changes: Any) -> None:
    """A record with other facts, and the hash that it should have."""
    record = json.loads((folder / "run.json").read_text())
    del record["sha256"]
    record["call"]["source"] |= {"label": EVIL, "licence": EVIL, "checkpoint": EVIL}
    record |= dict(reason=EVIL, image_name=EVIL, svdlab=EVIL, device=EVIL) | changes
    (folder / "run.json").write_text(ledger.record_text(record))


def poisoned(folder: Path) -> None:
    """Latents that are a pickle, by a record that vouches for them."""
    (folder / "latents.safetensors").write_bytes(PICKLE)
    files = files_of(folder.parents[1])
    files["latents.safetensors"] = {"bytes": len(PICKLE), "sha256": ledger.hash_file(folder / "latents.safetensors")}
    rewrite(folder, files=files, measures={})


def locks(copy: Path) -> None:
    run_id = study_of(copy).name
    shutil.rmtree(study_of(copy))  # or nobody would make it
    link_at(copy / "runs" / f".{run_id}.latents", OUTSIDE / "target.txt")
    for name in (f".{run_id}.x.tmp", f".{run_id}.x.old"):
        link_at(copy / "runs" / name, OUTSIDE)
    link_at(copy / "runs" / f".{run_id}.lock", OUTSIDE / "target.txt")


def studies(pipe: Any, good: Path) -> None:
    """Folders of studies: runs, records, clips, models and locks that are links or pipes; records with marked-up texts."""
    each: dict[str, Callable[[Path], Any]] = {
        "run": lambda c: link_at(study_of(c), elsewhere(c)),
        "record": lambda c: link_at(study_of(c) / "run.json", elsewhere(c) / "run.json"),
        "record-pipe": lambda c: pipe_at(study_of(c) / "run.json"),
        "record-device": lambda c: link_at(study_of(c) / "run.json", "/dev/zero"),
        "files": lambda c: [link_at(study_of(c) / f, elsewhere(c) / f) for f in ledger.FILES.values()],
        "files-pipe": lambda c: [pipe_at(study_of(c) / f) for f in ledger.FILES.values()],
        "runs": lambda c: link_at(c / "runs", OUTSIDE / "study" / "runs"),
        "models": lambda c: link_at(c / "models", OUTSIDE / "study" / "models"),
        "model": lambda c: [link_at(p, OUTSIDE / "study" / "models" / p.name) for p in (c / "models").iterdir()],
        "model-pipe": lambda c: [pipe_at(p) for p in (c / "models").iterdir()],
        "damaged": lambda c: [link_at(c / "damaged", OUTSIDE / "study"), (study_of(c) / "frames.mkv").write_bytes(b"")],
        "locks": locks,
        "text": lambda c: [rewrite(study_of(c, n)) for n in (0, 1)],
        "names": lambda c: rewrite(study_of(c), files={f: {"bytes": 1, "sha256": ""} for f in (EVIL, "../../x")}),
        "no-latents": lambda c: rewrite(study_of(c), files={ledger.FRAMES: files_of(c)[ledger.FRAMES]}, measures={}),
        "pickle": lambda c: poisoned(study_of(c)),
    }  # fmt: skip
    for copy in copies(good, INSIDE / "studies", each):
        name = copy.name
        table = attempt(f"load_results {name}", lambda copy=copy: svdlab.load_results(copy))
        if table is not None and len(table) and "motion_bucket_id" in table:
            with_seeds = {"a": table, "b": table}
            attempt(f"compare {name}", lambda tables=with_seeds: compare(tables, ["seconds_denoising"]))
            attempt(f"sheet {name}", lambda table=table: show.sheet(table, rows="seed", columns="fps"))
        attempt(f"explore {name}", lambda copy=copy: widgets.explore(copy, out=INSIDE / "exports"))
        attempt(f"missing {name}", lambda copy=copy: missing(pipe, ROWS, copy, image="scene-3"))
        attempt(f"export {name}", lambda copy=copy, name=name: ledger.export(copy, INSIDE / "exported" / name))
        page = INSIDE / "pages" / f"{name}.html"
        attempt(f"report {name}", lambda copy=copy, page=page: notebooks.report(copy, page))
        if page.exists() and "<img src=https" in page.read_text():
            found["printed"].append(f"report {name}: live HTML")
        if name in ("record-pipe", "files", "runs", "model", "locks", "text", "pickle", "no-latents", "model-pipe"):
            how: dict[str, Any] = dict(image="scene-3", measure=("fidelity",), progress=False, threads=1)
            attempt(f"sweep {name}", lambda copy=copy, how=how: svdlab.sweep(pipe, ROWS, copy, **how))
        attempt(f"check {name}", run("ledger", "check", copy))
    media = INSIDE / "media"
    pipe_at(media / "a.png"), pipe_at(media / "b.mp4"), (media / "c.png").mkdir(), pipe_at(media / "d.ipynb")
    link_at(media / "e.png", OUTSIDE / "secret.png"), link_at(media / "f.ipynb", OUTSIDE / "story.ipynb")
    attempt("report media", run("report", media))


def texts(pipe: Any) -> None:
    """Plans, manifests, notebooks, images, videos and traces."""
    home = INSIDE / "texts"
    for name in ("p.csv", "p.yaml", "p.json", "p.parquet", "p.ipynb", "p.png", "p.mp4", "p.webp", "p.safetensors"):
        pipe_at(home / name)
        link_at(home / f"zero-{name}", "/dev/zero")
        (home / f"pickle-{name}").write_bytes(PICKLE)
    link_at(home / "link.png", OUTSIDE / "secret.png")
    names = ["../../outside/secret.png", str(OUTSIDE / "secret.png"), "link.png", "p.png", "zero-p.png", "a\0b", "x" * 300]
    columns = ["path", "pair_id", "group", "group_scheme", "label_source", "licence", "consent", "subject_id", "notes"]
    for n, name in enumerate(names):
        rows = [[path, "1", group, "s", "me", "CC0", "on file", "1", EVIL] for path, group in ((name, "a"), ("scene-3", "b"))]
        pd.DataFrame(rows, columns=columns).to_csv(home / f"manifest-{n}.csv", index=False)
        pd.DataFrame(rows, columns=columns).to_parquet(home / f"manifest-{n}.parquet")
    tag = f"!!python/object/apply:os.system ['touch {SPRUNG}']"
    bomb = "a: &a [1,1]\nb: &b [*a,*a]\nfps: [*b,*b]\n"
    for n, text in enumerate(
        (f"fps: {tag}", bomb, "[" * 100_000, f"fps: [{EVIL}]", "fps: " + "7" * 5000, "image: [p.png, zero-p.png]")
    ):
        (home / f"plan-{n}.yaml").write_text(text)
    for path in sorted(home.iterdir()):
        if path.suffix in (".csv", ".parquet", ".yaml", ".json"):
            attempt(f"plan {path.name}", lambda path=path: plans.read_plan(path))
            attempt(f"grid {path.name}", lambda path=path: notebooks.read_grid(path))
        if path.suffix in (".csv", ".parquet"):
            attempt(f"manifest {path.name}", lambda path=path: pairs.read_manifest(path))
            attempt(f"design {path.name}", lambda path=path: bias.Design(path))
            attempt(f"stimuli {path.name}", lambda path=path: Stimuli.of(path))
        if path.suffix in (".png", ".mp4", ".webp") and path.name != "link.png":
            attempt(f"frames {path.name}", lambda path=path: reading.read_frames(path))
            attempt(f"tags {path.name}", lambda path=path: video.read_tags(path))
            attempt(f"image {path.name}", lambda path=path: svdlab.generate(pipe, path, num_inference_steps=1))
        if path.suffix == ".safetensors":
            attempt(f"trace {path.name}", lambda path=path: Trace.load(path))
        if path.suffix == ".ipynb":
            attempt(f"notebook {path.name}", run("notebook", path, "--out", INSIDE / "executed"))
    attempt("command bias", run("probe", "bias", "--manifest", home / "manifest-0.csv", "--out", INSIDE / "bias"))
    attempt("command sweep", run("sweep", "--grid", home / "plan-5.yaml", "--out", INSIDE / "swept"))
    made = pairs.make_pairs(
        ["scene-3", "scene-4"], INSIDE / "pairs", kinds=["mirror"], licence="CC0", consent="nobody is shown"
    )
    design = bias.Design(
        INSIDE / "pairs" / "manifest.csv", measures=["still"], conditions=svdlab.Conditions(num_inference_steps=1)
    )
    assert len(made) == 4
    for name in ("pipe", "link"):
        (INSIDE / name).mkdir()
        (
            pipe_at(INSIDE / name / "plan.json")
            if name == "pipe"
            else link_at(INSIDE / name / "plan.json", OUTSIDE / "target.txt")
        )
        attempt(f"bias.run {name}", lambda name=name: bias.run(pipe, design, INSIDE / name, progress=False))

    def cell(**data: Any) -> dict[str, Any]:
        outputs = [{"output_type": "display_data", "data": data, "metadata": {}}]
        return {"cell_type": "code", "source": "", "metadata": {}, "execution_count": 1, "outputs": outputs}

    html = f"<iframe src=file://{OUTSIDE}/secret.png></iframe><table><tr><td>{EVIL}</td></tr></table>"
    books: dict[str, Any] = {
        "html": [cell(**{"text/html": html}), cell(**{"text/markdown": f"![x]({OUTSIDE}/target.txt) {EVIL}"})],
        "png": [cell(**{"image/png": "not base64!"}), cell(**{"image/png": base64.b64encode(PICKLE).decode()})],
        "kinds": [cell(**{"image/png": 7}), cell(**{"text/html": {"a": 1}}), {"cell_type": 7}, 7],
        "stream": [{**cell(), "outputs": [{"output_type": "stream", "name": "stdout", "text": EVIL}]}],
        "deep": "[" * 100_000,
        "large": '{"cells": "' + "x" * 2**20 + '"}',
        "pickle": PICKLE.decode("latin1"),
    }
    for name, cells in books.items():
        folder = INSIDE / "books" / name
        folder.mkdir(parents=True)
        kernel = {"kernelspec": {"name": "../../outside/kernel", "language": "python", "display_name": EVIL}}
        whole = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (folder / "story.ipynb").write_text(cells if isinstance(cells, str) else json.dumps(whole))
        attempt(f"report book {name}", run("report", folder))
        if (folder / "report.html").exists():
            text = (folder / "report.html").read_text()
            if "<img src=https" in text or "<iframe" in text or "SECRET" in text:
                found["printed"].append(f"report book {name}: live HTML")
        attempt(
            f"run book {name}",
            lambda folder=folder: notebooks.run(folder / "story.ipynb", INSIDE / "executed", progress=False),
        )
        attempt(
            f"grid book {name}",
            lambda folder=folder: notebooks.run_grid(folder / "story.ipynb", {"a": [1]}, out=INSIDE / "grid"),
        )


# --- the whole --------------------------------------------------------------------------------------------------------


def watch_outside() -> Callable[[], list[str]]:
    """Every opening, reading and change of a file there, by whatever process."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    for folder in [OUTSIDE, *(p for p in OUTSIDE.rglob("*") if p.is_dir())]:
        assert (
            libc.inotify_add_watch(handle, os.fsencode(folder), 0x0 | 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200) > 0
        )

    def seen() -> list[str]:
        try:
            events = os.read(handle, 2**20)
        except BlockingIOError:
            return []
        names, at = [], 0
        while at < len(events):
            mask, length = (int.from_bytes(events[at + n : at + n + 4], sys.byteorder) for n in (4, 12))
            name = events[at + 16 : at + 16 + length].rstrip(b"\0").decode()
            names += [f"{name or 'a folder'} ({mask:#x})"] if not mask & 0x40000000 or name else []  # folders may be listed
            at += 16 + length
        return names

    return seen


def main() -> None:
    global looking
    faulthandler.dump_traceback_later(float(os.environ.get("LONGEST", 280)), exit=True)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, wait_over)
    for folder in (INSIDE, OUTSIDE, TEMPORARY):
        folder.mkdir(parents=True)
    tempfile.tempdir = str(TEMPORARY)
    os.chdir(INSIDE)
    good, study = save_checkpoint(INSIDE / "good"), INSIDE / "study"
    pipe = svdlab.load_pipeline(good, device="cpu")
    svdlab.sweep(pipe, ROWS, study, image="scene-3", measure=(), progress=False, threads=1)
    # What is imported, compiled or cached on first use is so now.
    (
        notebooks.report(study, INSIDE / "warm.html"),
        widgets.explore(study, out=INSIDE / "exports"),
        doctor.report(str(good), online=False),
    )
    ledger.export(study, INSIDE / "warm"), show.sheet(svdlab.load_results(study), rows="seed", columns="fps")
    svdlab.sweep(pipe, ROWS, INSIDE / "warm-study", image="scene-3", measure=("fidelity",), progress=False, threads=1)
    shutil.copytree(study, OUTSIDE / "study"), shutil.copytree(good, OUTSIDE / "checkpoint")
    (OUTSIDE / "checkpoint/README.md").write_text("SECRET"), (OUTSIDE / "target.txt").write_text("SECRET")
    svdlab.sample_image("scene-3").save(OUTSIDE / "secret.png")
    (OUTSIDE / "story.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    before = {str(p.relative_to(OUTSIDE)): p.is_file() and p.read_bytes() for p in sorted(OUTSIDE.rglob("*"))}
    seen = watch_outside()
    sys.addaudithook(listen)
    checkpoints(good), studies(pipe, study), texts(pipe)
    found["outside"] += [f"inotify: {name}" for name in seen()]
    after = {str(p.relative_to(OUTSIDE)): p.is_file() and p.read_bytes() for p in sorted(OUTSIDE.rglob("*"))}
    found["outside"] += [f"changed: {name}" for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    if SPRUNG.exists():
        found["outside"].append("executed")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
