"""The command `svdlab`, also `python -m svdlab`: thin calls of what the package does, imported when they are used.

$ svdlab demo
$ svdlab notebook 01-conditioning-sweep -p fps "[6, 12]" -p image cat
$ svdlab sweep --grid grid.yaml --out results/study
"""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from svdlab.errors import InputError, path, whole
from svdlab.errors import folder as as_folder
from svdlab.study.terminal import file, folder, run, say, values

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="svdlab: hooks, sweeps, measures and probes for Stable Video Diffusion. Start with: svdlab demo",
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
    app.add_typer(group, name=name)
    return group


ledger_app = _group("ledger", "Look after a folder of runs.")
organism_app = _group("organism", "The model organism.")
motion_app = _group("motion", "The motion instrument.")

# Flags that several commands have.
Checkpoint = Annotated[str, typer.Option(help="organism, organism-fixed, SVD, SVD_XT, SVD_1_1, a hub id, a folder or a file.")]
Out = Annotated[Path | None, typer.Option(help="Where to write.", callback=folder)]
OutFile = Annotated[Path | None, typer.Option(help="The file to write.", callback=file)]
Ledger = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `svdlab sweep` or a notebook wrote runs to.")]
Quick = Annotated[bool, typer.Option("--quick", help="Less of everything: a first look, seldom enough for a verdict.")]
Options = dict[str, Any]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="KEY VALUE", help="A parameter, option or condition. Repeat for more."),
]


@app.command()
def demo(out: Out = Path("results/00-tour")) -> None:
    """Run the tour notebook: no network, a few minutes.

    \b
    Example: svdlab demo
    """
    from svdlab.study import notebooks

    _list_outputs(notebooks.run("00-tour", out))


@app.command()
def notebook(
    name: Annotated[str, typer.Argument(help="Such as 01-conditioning-sweep, or the path of an .ipynb.")],
    parameter: Parameter = None,
    grid: Annotated[Path | None, typer.Option(help="YAML, parameter to list of values: a run for each combination.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Notebooks at a time, with --grid; default 1.")] = None,
    out: Out = None,
) -> None:
    """Execute a notebook with parameters, into results/NAME/.

    \b
    Example: svdlab notebook 01-conditioning-sweep -p fps "[6, 12]" -p image cat
    """
    from svdlab.study import notebooks

    known = notebooks.parameters_of(notebooks.find(name)) if parameter else {}
    given = values(parameter, [key for key, kind in known.items() if kind == "str"])
    if "out" in given:
        raise InputError("-p out: give the folder as --out.")
    if grid is None:
        if jobs is not None:
            raise InputError("--jobs is for --grid: without one, one notebook runs.")
        _list_outputs(notebooks.run(name, out, **given))
        return
    axes = notebooks.read_grid(grid)
    if twice := sorted(set(axes) & set(given)):
        raise InputError(f"{', '.join(twice)}: given both by -p and in {grid}. Leave one out.")
    table = notebooks.run_grid(name, {**axes, **{k: [v] for k, v in given.items()}}, 1 if jobs is None else jobs, out)
    say(table.drop(columns="notebook").to_string(index=False, max_colwidth=60))
    say(f"executed notebooks and points.csv: {Path(table['notebook'][0]).parents[1]}")
    raise typer.Exit(int((table["status"] == "failed").any()))


@app.command("notebooks")
def copies(to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they go.")]) -> None:
    """Copy the notebooks to a folder, to run and change them there.

    What lies there already is kept. The notebooks write to results/ beside the folder.

    \b
    Example: svdlab notebooks my-notebooks
    """
    from svdlab.study import notebooks

    say(*(f"{path}{'' if new else '  (there already, kept)'}" for path, new in notebooks.copy(to).items()))


@app.command()
def sweep(
    grid: Annotated[Path, typer.Option(help="A grid (.yaml: condition to list of values) or a plan (.csv, .parquet).")],
    out: Annotated[Path, typer.Option(help="Folder for the runs; what it holds already is not made again.", callback=folder)],
    checkpoint: Checkpoint = "organism",
    image: Annotated[
        str | None,
        typer.Option(help="A path, a sample's name; a folder, a glob or a .csv of images; or the plan names one per row."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips at a time; default by size.")] = None,
    threads: Annotated[int | None, typer.Option(help="Batches side by side; default on a CPU one per core.")] = None,
) -> None:
    """Make and measure a clip for every point of a grid; write results.csv, a contact sheet and a curve beside the runs.

    Started again, it goes on where it was. Exits with 1 where a clip failed.

    \b
    Example: svdlab sweep --grid grid.yaml --out results/study --image cat
    where grid.yaml has lines such as  fps: [6, 12]
    """
    from svdlab.study import plans

    asked = image
    plan, image = plans.with_images(plans.read_plan(grid), asked)  # all that can be checked is, before the model is loaded
    found = asked is not None and image is None and not asked.lower().endswith((".csv", ".tsv"))  # a folder's, or a glob's
    if found and out.resolve() in {Path(each).resolve().parent for each in plan["image"]}:
        raise InputError(
            f"--out {out} is the images' own folder: its sheet would be an image of the next sweep. Give another."
        )
    counts = {"batch_size": batch_size, "threads": threads}
    given: Options = {k: whole(f"--{k.replace('_', '-')}", v, 1, 4096) for k, v in counts.items() if v is not None}
    from svdlab.pipeline.checkpoints import load_pipeline
    from svdlab.study import sweep as sweeps

    table = sweeps.sweep(load_pipeline(checkpoint), plan, out, image=image, **given)
    from svdlab.study.overview import overview

    failed, files = int((table["status"] == "failed").sum()), overview(table, out)
    say(*files, f"{len(table)} runs in {out}, {failed} of them failed. The table: svdlab.load_results({str(out)!r})")
    raise typer.Exit(int(failed > 0))


@app.command()
def measure(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEOS...", help="Videos, folders of videos, or of frames.")],
    image: Annotated[
        str | None, typer.Option(help="The first frame they were made from, or a sample's name; default each video's own.")
    ] = None,
    out: Out = None,
) -> None:
    """Measure any videos as a sweep's clips are measured: mp4, webm, mkv, gif, animated WebP and PNG, folders of frames.

    Settings that ComfyUI wrote into a file are columns of the table. Writes a study with measured.csv, .parquet, sheet.png,
    flow-1.png ... and report.html. Started again, it goes on where it was. Exits with 1 where a file could not be read.

    \b
    Example: svdlab measure downloads/ clip.mp4 --out results/measured
    """
    from svdlab.study import measured

    out = out or as_folder("--out", "results/measured")
    table = measured.measure_files(videos, out, image=image)
    say(measured.lines(table), *measured.write(table, out))
    raise typer.Exit(int((table["status"] == "failed").any()))


@app.command()
def probe(
    name: Annotated[str, typer.Argument(help="A probe's name, all (of the model card's limitations), or bias.")],
    checkpoint: Checkpoint = "organism",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study, default results/limitations or results/bias; it is continued.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="A folder, a manifest (.csv), photographs, or world; default the probe's own.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Clips of each image; default 2, or 1 with --quick.")] = None,
    quick: Quick = False,
    parameter: Parameter = None,
    manifest: Annotated[Path | None, typer.Option(help="bias: images in pairs, .csv or .parquet.")] = None,
) -> None:
    """Measure a limitation that the model card admits, or all of them; or whether some inputs are degraded more.

    Writes a limitations card: limitations.md, .html and .json, with figures. bias compares images in pairs, and writes
    plan.json first, then report.md, tables and figures; without --manifest, pairs of the organism's world.

    \b
    Example: svdlab probe all --quick -p duration.rounds 2
    or:      svdlab probe stillness --checkpoint SVD_1_1 --images my-images/ --seeds 4 -p motion_bucket_id "[20, 250]"
    or:      svdlab probe bias --manifest people.csv -p margins "{still: 0.1}"
    """
    from svdlab import probes
    from svdlab.pipeline.checkpoints import load_pipeline
    from svdlab.pipeline.conditions import conditions_of
    from svdlab.study.plans import CONDITIONS, SEQUENCES

    options = values(parameter)
    single = lambda key: key in SEQUENCES or not isinstance(options[key], list)  # else a probe's axis
    changes = {key: options.pop(key) for key in list(options) if key in CONDITIONS and single(key)}
    out = as_folder("--out", out or ("results/bias" if name == "bias" else "results/limitations"))
    if seeds is not None:
        seeds = whole("--seeds", seeds, 1, 10_000)
    if name == "bias":
        if images is not None:
            raise InputError("--images belongs to the other probes: bias compares the pairs of --manifest.")
        _bias(checkpoint, out, manifest, seeds or (1 if quick else 2), quick, changes, options)
        return
    if manifest:
        raise InputError(f"--manifest belongs to svdlab probe bias, and not to {name}.")
    # All that can be checked is, before the model is loaded.
    chosen = [probes.find(each) for each in (probes.PROBES if name == "all" else [name])]
    probes.options_of(chosen, options)
    conditions_of(checkpoint).replace(**changes)
    stimuli = None if images is None else probes.Stimuli.of(images)
    pipe = load_pipeline(checkpoint)
    given = dict(images=stimuli, seeds=seeds, quick=quick, conditions=changes or None, **options)
    results = probes.run_all(pipe, out, **given) if name == "all" else {name: probes.run(name, pipe, out, **given)}
    say(*results.values(), *probes.card.write(results, out if name == "all" else out / name).values())
    raise typer.Exit(int(all(result.status == "not run" for result in results.values())))


def _bias(
    checkpoint: str, out: Path, manifest: Path | None, seeds: int, quick: bool, changes: Options, options: Options
) -> None:
    """`svdlab probe bias`: a study of a manifest, or of planted pairs. Faults are named before the model is loaded."""
    from svdlab.pipeline.checkpoints import load_pipeline
    from svdlab.pipeline.conditions import conditions_of
    from svdlab.probes import bias
    from svdlab.probes.bias import planted

    known = ("measures", "margins", "alpha", "reference", "covariates")
    if unknown := sorted(options.keys() - set(known)):
        raise InputError(f"bias has no option {', '.join(unknown)}: it has {', '.join(known)}, and conditions.")
    given: Options = {"seeds": range(seeds), **options}
    if manifest is None:
        design = planted.design(out, quick, changes, **given)
    else:
        given |= {"conditions": conditions_of(checkpoint).replace(**changes)} if changes else {}
        design = bias.Design(manifest, **given)
    result = bias.run(load_pipeline(checkpoint), design, out)
    bias.save_figures(result, out)
    say(result.report(), *sorted(out.glob("figures/*")))


@app.command()
def report(
    of: Annotated[Path, typer.Argument(metavar="FOLDER", help="What a notebook or a sweep left, such as results/00-tour.")],
    out: Annotated[Path | None, typer.Option(help="The page; default report.html in the folder.")] = None,
) -> None:
    """Put a study into one HTML page that opens from disk: figures, videos, tables, conditions, versions, licence.

    \b
    Example: svdlab report results/00-tour
    """
    from svdlab.study import notebooks

    page = notebooks.report(of, out)
    say(f"{page}  {page.stat().st_size / 1e6:.1f} MB")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="Stability's single file, such as svd_xt_1_1.safetensors.")],
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    num_frames: Annotated[int | None, typer.Option(help="14 or 25; default by the file's name.")] = None,
    configs: Annotated[Path | None, typer.Option(help="Folder whose settings are used, for models not of SVD's size.")] = None,
) -> None:
    """Write a single-file checkpoint as a folder in diffusers' layout.

    \b
    Example: svdlab convert svd_xt_1_1.safetensors models/svd-1-1
    """
    if not path("FILE", file).is_file():
        raise InputError(f"{file}: no such file.")
    to = as_folder("FOLDER", to)
    from svdlab.pipeline import single_file

    say(single_file.convert(file, to, num_frames=num_frames, configs=configs))


@app.command()
def doctor(
    checkpoint: Annotated[str | None, typer.Option(help="Also see whether it is here, or may be fetched.")] = None,
    run: Annotated[str | None, typer.Option(help="Test svdlab's promises with this checkpoint, on this machine.")] = None,
    parameter: Parameter = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no network.")] = False,
    details: Annotated[bool, typer.Option("--details", help="Below, each check in full, with what to do.")] = False,
) -> None:
    """Check this machine: packages, device, memory, hub, licence.

    Exits with 1 where something is missing. With --run, -p gives dtype, offload and device, and conditions.

    \b
    Example: svdlab doctor --checkpoint SVD_1_1
    and then: svdlab doctor --run SVD_1_1 -p offload model -p num_frames 8 -p height 320 -p width 576
    """
    given = values(parameter)
    if given and run is None:
        raise InputError("-p belongs to svdlab doctor --run CHECKPOINT.")
    from svdlab.pipeline import doctor as checks

    if run is not None:
        from svdlab.pipeline.checkpoints import load_pipeline
        from svdlab.pipeline.conditions import Conditions

        load = {key: given.pop(key) for key in ("dtype", "offload", "device") if key in given}
        Conditions().replace(**given)  # before the model is loaded
        table = checks.accept(load_pipeline(run, local_files_only=offline, **load), **given)
    else:
        table = checks.report(checkpoint, online=not offline)
    say(*checks.screen(table, details))
    raise typer.Exit(int((table["status"] == "failed").any()))


@ledger_app.command("check")
def ledger_check(of: Ledger) -> None:
    """Compare every file with its recorded hash.

    Damaged runs are set aside in FOLDER/damaged/, and the next sweep makes them again.

    \b
    Example: svdlab ledger check results/study
    """
    from svdlab.study import ledger

    found = ledger.check(of)
    say(found.to_string(index=False) if len(found) else f"{len(ledger.run_ids(of))} runs, all whole")
    raise typer.Exit(int(len(found) > 0))


@ledger_app.command("export")
def ledger_export(of: Ledger, to: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Copy table, previews and a README to a new folder.

    \b
    Example: svdlab ledger export results/study shared/study
    """
    from svdlab.study import ledger

    say(ledger.export(of, to))


@organism_app.command("verify")
def organism_verify(
    checkpoint: Annotated[str, typer.Argument(help="organism, or a folder.")] = "organism",
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Measure the planted laws in what the organism makes.

    Exits with 1 where one fails.

    \b
    Example: svdlab organism verify organism --quick
    """
    from svdlab.probes.verify import verify

    table = verify(checkpoint, quick=quick, out=out)
    say(table.to_string(index=False))
    raise typer.Exit(int(not table["passed"].dropna().all()))


@motion_app.command("calibrate")
def motion_calibrate(quick: Quick = False, out: OutFile = None) -> None:
    """Compare the motion instrument with known motion, a line per claim as it comes.

    --out: a CSV for the claims; beside it, NAME-suite.csv has the adversarial suite by kind of motion and size. --quick: a few
    clips, small ones. Exits with 1 where the instrument misses a threshold.

    \b
    Example: svdlab motion calibrate --quick --out results/motion/calibration.csv
    """
    from svdlab.measure import calibrate
    from svdlab.organism import world

    held = calibrate.printed(quick, world, out, typer.echo, lambda text: typer.echo(text, err=True))
    raise typer.Exit(int(not held))


def _list_outputs(executed: Path) -> None:
    """What a notebook left: the executed copy, figures, videos, tables."""
    say(executed, *sorted(p for p in executed.parent.iterdir() if p.suffix in (".png", ".mp4", ".parquet")))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; see `svdlab.study.terminal.run`."""
    run(app, arguments)


if __name__ == "__main__":
    main()
