"""Public functions, each with arguments that it takes: what `test_bad_calls` attacks, argument by argument."""

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

import svdlab
from svdlab import comparison, edits, fidelity, ledger, motion, probes, published, schedule, show, stats, widgets
from svdlab.measure import calibrate, faces, files, flow, suite, text, video
from svdlab.measure import failures as measured
from svdlab.organism import scenery, trackers, world
from svdlab.pipeline import images, single_file
from svdlab.probes import bias, stimuli, verify
from svdlab.probes import probe as probe_
from svdlab.probes.bias import planted, symmetry
from svdlab.show import figure, labels, page
from svdlab.stats import effects
from svdlab.study import failures, leakage, lock_in, noise, notebooks, overview, pairs, plans, sweep
from svdlab.widgets import panel
from tests.study.test_comfy import PROMPT, png

SPATIAL = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
Target = tuple[Callable[..., Any], dict[str, Any]]
CONDITIONS: dict[str, Any] = dict(
    fps=7,
    motion_bucket_id=127,
    noise_aug_strength=0.02,
    min_guidance_scale=1.0,
    max_guidance_scale=3.0,
    guidance_curve="linear",
    guidance_interval=(0.1, 10.0),
    num_frames=8,
    num_inference_steps=1,
    height=64,
    width=64,
    decode_chunk_size=2,
    playback_fps=7.0,
    scheduler="EulerDiscreteScheduler",
)


def entered(context: Callable[..., contextlib.AbstractContextManager[Any]]) -> Callable[..., None]:
    """A context manager as a call: entered and left."""

    def call(*args: Any, **kwargs: Any) -> None:
        with context(*args, **kwargs):
            pass

    call.__signature__ = inspect.signature(context)  # type: ignore[attr-defined]
    return call


def make(pipe: Any, folder: Path) -> SimpleNamespace:
    """What the calls work on: an image, a clip, a trace, a study, a table."""
    scene = svdlab.sample_image("scene-27")
    with svdlab.trace(pipe, keep=("latents", "denoised", "cond", "uncond")) as tr:
        clip = svdlab.generate(pipe, scene, num_inference_steps=2)
    plan = svdlab.grid(motion_bucket_id=[40, 200], fps=[6, 12], num_inference_steps=1)
    out = folder / "study"
    results = svdlab.sweep(pipe, plan, out, image=scene, progress=False)
    still = np.asarray(scene, np.float32) / 255
    manifest = pairs.make_pairs(["scene-27"], folder / "pairs", licence="CC0", consent="nobody is shown", kinds=["mirror"])
    table = pd.DataFrame({"stimulus": list("abcdefgh") * 2, "seed": 0, "x": np.arange(16.0), "fps": [6] * 8 + [12] * 8})
    effect = stats.mean("m", "x", table, "x", unit="px")
    grid = folder / "grid.yaml"
    grid.write_text("fps: [6]\n")
    layer = {"unet.conv_in.lora_A.weight": torch.zeros(1, 8, 3, 3), "unet.conv_in.lora_B.weight": torch.zeros(32, 1, 1, 1)}
    save_file(layer, folder / "pan.safetensors")
    notebook = Path(__file__).parents[1] / "notebooks" / "02-denoising-trace.ipynb"
    names = dict(folder=folder, scene=scene, tr=tr, clip=clip, plan=plan, out=out, results=results, still=still, grid=grid)
    return SimpleNamespace(
        **names,
        manifest=manifest,
        read=pairs.read_manifest(folder / "pairs" / "manifest.csv"),
        table=table,
        effect=effect,
        notebook=notebook,
        pipe=pipe,
    )


def of_pipeline(m: SimpleNamespace) -> dict[str, Target]:
    pipe, scene, tr = m.pipe, m.scene, m.tr
    keep = dict(keep=("latents",), modules=(), attention=(), queries=((0.5, 0.5),), steps=None)
    load = dict(
        checkpoint="organism",
        device="cpu",
        dtype="float32",
        variant="fp16",
        offload=None,
        memory="auto",
        revision=None,
        local_files_only=False,
        compile=False,
        num_frames=None,
    )
    small = svdlab.Conditions(num_inference_steps=1, num_frames=2)
    noise: dict[str, Any] = dict(seed=0, sigmas=None, latents=None, noise=None)
    return {
        "load_pipeline": (svdlab.load_pipeline, load),
        "Conditions": (svdlab.Conditions, CONDITIONS),
        "single_file.convert": (
            single_file.convert,
            dict(file=m.folder / "svd.safetensors", folder=m.folder / "converted", num_frames=14, configs=None),
        ),
        "conditions.file_preset": (svdlab.conditions.file_preset, dict(file="svd.safetensors")),
        "conditions.conditions_of": (svdlab.conditions.conditions_of, dict(checkpoint="organism")),
        "generate": (svdlab.generate, dict(pipe=pipe, image=scene, **noise, **CONDITIONS)),
        "generate, conditions": (svdlab.generate, dict(pipe=pipe, image=scene, conditions=small)),
        "branch": (svdlab.branch, dict(pipe=pipe, trace=tr, step=1, motion_bucket_id=30, image=scene)),
        "transplant": (svdlab.transplant, dict(pipe=pipe, trace=tr, steps=[1], motion_bucket_id=30)),
        "trace": (entered(svdlab.trace), dict(pipe=pipe, **keep)),
        "edit": (entered(svdlab.edit), dict(pipe=pipe, where="latents", fn=lambda value, step: value, steps=None)),
        "lora": (entered(svdlab.lora), dict(pipe=pipe, file=m.folder / "pan.safetensors", scale=0.5, digest=None)),
        "module_names": (svdlab.module_names, dict(pipe=pipe, contains="")),
        "Trace.save": (tr.save, dict(path=m.folder / "x.safetensors")),
        "Trace.load": (svdlab.Trace.load, dict(path=tr.save(m.folder / "y.safetensors"))),
        "Trace.decode": (tr.decode, dict(pipe=pipe, steps=[0], frames=[0])),
        "Clip.save": (m.clip.save, dict(path=m.folder / "x.mp4")),
        "encode": (images.encode, dict(pipe=pipe, video=m.clip.frames)),
        "Trace.getitem": (tr.__getitem__, dict(key="latents")),
        "Trace.as_colours": (tr.as_colours, dict(latents=tr.denoised)),
        "sample_image": (svdlab.sample_image, dict(name="scene-3")),
        "images.open_image": (images.open_image, dict(source=scene)),
        "images.prepare_image": (images.prepare_image, dict(source=scene, height=32, width=32)),
        "images.images_in": (images.images_in, dict(folder=m.folder)),
        "edits.image_embedding": (entered(edits.image_embedding), dict(pipe=pipe, image=scene, steps=None)),
        "edits.silence_temporal_attention": (
            entered(edits.silence_temporal_attention),
            dict(pipe=pipe, blocks="unet", scale=0.5, steps=None),
        ),
        "schedule.karras": (schedule.karras, dict(n=5, sigma_min=0.002, sigma_max=700.0, rho=7.0)),
    }


def of_study(m: SimpleNamespace) -> dict[str, Target]:
    pipe, scene, elsewhere = m.pipe, m.scene, m.folder / "elsewhere"
    how: dict[str, Any] = dict(
        measure=("motion",), keep=(), batch_size=2, threads=1, executor=None, devices=(), progress=False
    )
    one = lambda **row: svdlab.sweep(pipe, [row], elsewhere, image=scene, measure=("fidelity",), progress=False)
    clip, comfyui = m.clip.save(m.folder / "measured.mp4"), png(m.folder / "comfyui.png", PROMPT)
    tables: dict[str, Any] = dict(tables={"a": m.results, "b": m.results}, measures=["motion_flow_px"])
    return {
        "grid": (svdlab.grid, dict(image="scene-3", seed=[0], **{name: [value] for name, value in CONDITIONS.items()})),
        "read_plan": (plans.read_plan, dict(path=m.grid)),
        "sweep": (
            svdlab.sweep,
            dict(pipe=pipe, plan=m.plan.head(1), out=m.out, image=scene, **how, retry_failed=False, intervention=None),
        ),
        "steps_needed": (
            svdlab.steps_needed,
            dict(pipe=m.pipe, plan=[{}], image=m.scene, steps=(1,), within=2.0, reference=2, progress=False),
        ),
        "sweep, row": (one, dict(seed=0, **CONDITIONS)),
        "sweep.missing": (sweep.missing, dict(pipe=pipe, plan=m.plan, out=m.out, image=scene, intervention=None)),
        "load_results": (svdlab.load_results, dict(out=m.out)),
        "measure_files": (
            svdlab.measure_files,
            dict(videos=clip, out=m.folder / "measured", image=None, measure=("motion",), progress=False),
        ),
        "read_settings": (svdlab.read_settings, dict(file=comfyui)),
        "Settings.to_plan": (svdlab.read_settings(comfyui).to_plan, dict(image=scene, noise=False)),
        "leakage.copied_image": (entered(leakage.copied_image), dict(pipe=pipe, weight=0.5, steps=None)),
        "leakage.fitted": (leakage.fitted, dict(pipe=pipe, video=m.clip.frames)),
        "leakage.estimates": (leakage.estimates, dict(pipe=pipe, video=m.clip.frames, sigmas=[9.0], seed=0)),
        "leakage.one_step": (leakage.one_step, dict(pipe=pipe, videos=[m.clip.frames], sigmas=[9.0], seed=0)),
        "noise.unit_noise": (noise.unit_noise, dict(pipe=pipe, seeds=[0])),
        "noise.hybrid": (noise.hybrid, dict(low=m.clip.latents, high=m.clip.latents, cutoff=0.5)),
        "noise.below": (noise.below, dict(shape=(8, 4, 16, 16), cutoff=0.5)),
        "failures.failures": (failures.failures, dict(results=m.results, kinds=["drift"])),
        "failures.rates": (failures.rates, dict(results=m.results, by=["fps"], kinds=["drift"])),
        "ledger.check": (ledger.check, dict(out=m.out)),
        "ledger.export": (ledger.export, dict(out=m.out, to=m.folder / "exported")),
        "comparison.compare": (comparison.compare, dict(**tables, by=[], within="mean", margins=None)),
        "pairs.make_pairs": (
            pairs.make_pairs,
            dict(images=["scene-27"], out=m.folder / "more", licence="CC0", consent="nobody is shown", kinds=["mirror"]),
        ),
        "pairs.read_manifest": (pairs.read_manifest, dict(source=m.manifest)),
        "pairs.contrasts": (pairs.contrasts, dict(manifest=m.read, reference={})),
        "pairs.confounds": (pairs.confounds, dict(manifest=m.read, reference={})),
        "pairs.change": (pairs.change, dict(image=scene, kind="exposure", amount=1.0)),
        "pairs.mirror": (pairs.mirror, dict(image=scene, flip="left_right")),
        "notebooks.copy": (notebooks.copy, dict(folder=m.folder / "course")),
        "notebooks.find": (notebooks.find, dict(notebook=m.notebook)),
        "notebooks.parameters_of": (notebooks.parameters_of, dict(notebook=m.notebook)),
        "notebooks.read_grid": (notebooks.read_grid, dict(grid=m.grid)),
        "notebooks.read_value": (notebooks.read_value, dict(text="7")),
        "notebooks.report": (notebooks.report, dict(folder=m.out, out=m.folder / "report.html")),
    }


def of_measure(m: SimpleNamespace) -> dict[str, Target]:
    frames, still, folder = m.clip.frames, m.still, m.folder
    plate, forward = text.make_plate("AB", (64, 64), height=16), np.zeros((7, 64, 64, 2), np.float32)
    plates: dict[str, Any] = dict(text="AB", shape=(64, 64), height=16, font="sans", contrast=0.9, background=None)
    moved: dict[str, Any] = dict(photograph="cat", size=(32, 32), frames=2, body=None, area=0.1, start=(0.0, 0.0), pan=1.0)
    worse: dict[str, Any] = dict(frames=frames, noise=0.1, blur=1.0, flicker=0.1, crf=20)
    rows, tracked = (
        motion.measure(frames),
        pd.DataFrame({"found": [True] * 2, "score": 1.0, "size": 9.0, "blur": 0.1, "parts": 1.0}),
    )
    tracked = tracked.assign(**dict.fromkeys(faces.POINTS, 1.0))
    mkv, mp4, facts = folder / "v.mkv", folder / "v.mp4", {"seed": 3}
    return {
        "motion.measure": (motion.measure, dict(frames=frames, playback_fps=7, floor=0.07)),
        "motion.summary": (motion.summary, dict(frames=frames, playback_fps=7, floor=0.07)),
        "motion.camera_class": (motion.camera_class, dict(table=rows, shape=(64, 64), floor=0.07)),
        "motion.noise_floor": (motion.noise_floor, dict(frames=frames)),
        "motion.camera_path": (motion.camera_path, dict(table=rows)),
        "motion.mean_radius": (motion.mean_radius, dict(shape=(64, 64))),
        "fidelity.summary": (fidelity.summary, dict(frames=frames, image=still)),
        "fidelity.drift": (fidelity.drift, dict(frames=frames, image=still)),
        "fidelity.flicker": (fidelity.flicker, dict(frames=frames)),
        "fidelity.warp_error": (fidelity.warp_error, dict(frames=frames)),
        "fidelity.per_frame": (fidelity.per_frame, dict(frames=frames)),
        "fidelity.decay": (fidelity.decay, dict(frames=frames)),
        "fidelity.reconstruction_error": (fidelity.reconstruction_error, dict(image=still, reconstruction=still)),
        "fidelity.ssim": (fidelity.ssim, dict(one=still, two=still)),
        "fidelity.power": (fidelity.power, dict(frames=frames)),
        "fidelity.kept": (fidelity.kept, dict(reference=still, frames=frames)),
        "fidelity.decibels": (fidelity.decibels, dict(power=1.0, reference=2.0)),
        "fidelity.grating": (fidelity.grating, dict(shape=(32, 32), frequency=0.1, angle=0.0, contrast=0.5)),
        "fidelity.modulation": (fidelity.modulation, dict(image=still, frequency=0.1, angle=0.0)),
        "fidelity.regions": (fidelity.regions, dict(image=still)),
        "fidelity.budget": (fidelity.budget, dict(stages={"a": still, "b": still})),
        "fidelity.seams": (fidelity.seams, dict(whole=frames, chunked=frames, decode_chunk_size=2)),
        "failures.judge": (measured.judge, dict(results=m.results, kinds=["drift"])),
        "failures.place": (measured.place, dict(kind="drift", frames=frames)),
        "failures.face": (measured.face, dict(frames=frames, image=still)),
        "failures.letters": (measured.letters, dict(frames=frames, image=still)),
        "published.summary": (published.summary, dict(frames=frames, image=still, playback_fps=7)),
        "published.baselines": (published.baselines, dict(frames=frames, image=still, playback_fps=7)),
        "published.dynamic_degree": (published.dynamic_degree, dict(forward=forward)),
        "published.static_filter": (published.static_filter, dict(forward=forward, ends=forward[:2])),
        "published.camera_motion": (published.camera_motion, dict(forward=forward)),
        "published.warping_error": (published.warping_error, dict(frames=frames)),
        "published.occluded": (published.occluded, dict(there=forward[0], back=forward[0])),
        "flow.flow": (flow.flow, dict(frames=frames, longest_baseline=2)),
        "flow.both_ways": (flow.both_ways, dict(frames=frames, longest_baseline=2)),
        "flow.points": (flow.points, dict(forward=forward, starts=[(3.0, 4.0)])),
        "text.make_plate": (text.make_plate, plates),
        "text.correlation": (text.correlation, dict(plate=plate, frames=frames)),
        "text.read": (text.read, dict(image=still)),
        "text.read_clip": (text.read_clip, dict(frames=frames[:1], truth="AB")),
        "text.error_rate": (text.error_rate, dict(truth="AB", text="AC")),
        "faces.detect": (faces.detect, dict(image=still)),
        "faces.track": (faces.track, dict(frames=frames, first=None)),
        "faces.summarise": (faces.summarise, dict(table=tracked)),
        "faces.jitter": (faces.jitter, dict(points=np.zeros((4, 5, 2)))),
        "calibrate.moving": (calibrate.moving, moved),
        "suite.clip": (suite.clip, dict(kind="spin", size=(64, 64), index=0, half="tuning")),
        "calibrate.degrade": (calibrate.degrade, worse),
        "calibrate.clips": (
            lambda **options: next(calibrate.clips(**options)),
            dict(half="tuning", counts={(64, 64): 1}, processes=1),
        ),
        "calibrate.rows": (lambda quick: next(calibrate.rows(quick)), dict(quick=True)),
        "video.as_frames": (video.as_frames, dict(frames=frames, least=2)),
        "video.as_image": (video.as_image, dict(image=still, size=(64, 64))),
        "video.as_bytes": (video.as_bytes, dict(frames=frames)),
        "video.read_frames": (video.read_frames, dict(path=m.clip.save(folder / "z.mp4"))),
        "video.distinct": (video.distinct, dict(frames=frames)),
        "video.write_preview": (video.write_preview, dict(path=mp4, frames=frames, playback_fps=7, facts=facts)),
        "video.write_frames": (video.write_frames, dict(path=mkv, frames=frames, playback_fps=7)),
        "video.h264": (video.h264, dict(frames=video.as_bytes(frames), fps=7, crf=18, facts=facts)),
        "video.licence_line": (video.licence_line, dict(repo_id="a/b", card={})),
        "video.describe": (video.describe, dict(call={"seed": 0})),
        "video.png_info": (video.png_info, dict(facts=facts)),
        "video.write_sidecar": (video.write_sidecar, dict(path=mp4, facts=facts)),
        "video.read_tags": (video.read_tags, dict(path=folder / "z.mp4")),
        "files.hash_file": (files.hash_file, dict(path=folder / "z.mp4")),
        "files.hash_facts": (files.hash_facts, dict(facts=facts)),
        "files.write_whole": (entered(files.write_whole), dict(path=folder / "text")),
    }


def of_stats(m: SimpleNamespace) -> dict[str, Target]:
    table, named = m.table, dict(key="m", what="x")
    levels = dict(by="fps", levels=(6, 12), unit="px", margin=1.0)
    differences = dict(differences=[1.0, 2.0, 3.0, 1.0, 2.0, 4.0], unit="px", margin=1.0, seeds=1, alpha=0.05)

    doses = dict(table=table.assign(image=table["stimulus"]), condition="fps", measure="x")
    return {
        "stats.mean": (stats.mean, dict(**named, table=table, column="x", unit="px", null=0.0, margin=1.0)),
        "stats.share": (stats.share, dict(**named, table=table.assign(x=True), column="x", margin=0.2)),
        "stats.difference": (stats.difference, dict(**named, table=table, column="x", **levels)),
        "stats.cells": (
            stats.cells,
            dict(**named, table=table, column="x", reference={"fps": 6}, unit="px", margin=1.0),
        ),
        "stats.images_needed": (stats.images_needed, dict(threshold=0.15, tests=2, alpha=0.05)),
        "effects.per_seed": (effects.per_seed, dict(table=table, column="x")),
        "stats.ratio": (stats.ratio, dict(**named, table=table, column="x", unit="px", margin=0.1)),
        "stats.paired": (stats.paired, dict(**named, **differences, of="pair")),
        "stats.exact": (stats.exact, dict(**named, value=1.0, unit="s", table=table)),
        "stats.descriptive": (stats.descriptive, dict(effect=m.effect)),
        "effects.bounded": (effects.bounded, dict(effect=m.effect, low=0, high=1)),
        "effects.per_image": (effects.per_image, dict(table=table, column="x")),
        "stats.Effect": (
            stats.Effect,
            dict(
                **named,
                value=1.0,
                low=0.0,
                high=2.0,
                unit="px",
                n=3,
                seeds=1,
                verdict="effect",
                alpha=0.05,
                of="image",
                method="t",
            ),
        ),
        "stats.dose_response": (stats.dose_response, doses),
        "stats.variance_shares": (stats.variance_shares, dict(table=table, measure="x", factors=["stimulus", "fps"])),
        "stats.mean_interval": (stats.mean_interval, dict(values=[1.0, 2.0, 3.0], confidence=0.95)),
        "stats.t_interval": (stats.t_interval, dict(values=[1.0, 2.0, 3.0], confidence=0.95)),
        "stats.proportion": (stats.proportion, dict(count=2, n=8, confidence=0.95)),
        "stats.clustered_proportion": (stats.clustered_proportion, dict(rates=[0.1, 0.2], clips=8)),
        "stats.paired_shares": (stats.paired_shares, dict(differences=[0.1, 0.2])),
        "stats.permutation_p": (stats.permutation_p, dict(differences=[1.0, 2.0, -1.0])),
        "stats.fdr": (stats.fdr, dict(p_values=[0.1, 0.2])),
        "stats.detectable": (stats.detectable, dict(pairs=10, alpha=0.05)),
        "stats.corrected": (stats.corrected, dict(effects=[m.effect], least_tests=1)),
        "stats.as_table": (stats.as_table, dict(effects=[m.effect])),
    }


def of_probes(m: SimpleNamespace) -> dict[str, Target]:
    given = dict(pipe=m.pipe, out=m.folder / "probes", images=[m.scene], seeds=1, quick=True)
    axes = dict(conditions=None, progress=False, motion_bucket_id=(40, 200))
    image = np.asarray(m.scene, np.float32) / 255
    face = np.asarray(svdlab.sample_image("astronaut").resize((128, 128)), np.float32) / 255
    return {
        "probes.find": (probes.find, dict(probe="stillness")),
        "probes.estimate": (probes.estimate, dict(names=["stillness"], **given)),
        "probes.prepare": (probes.prepare, dict(probe="stillness", **given, **axes)),
        "probes.options_of": (probes.options_of, dict(probes=[probes.find("stillness")], given={"motion_bucket_id": (1, 2)})),
        "probes.together": (
            probes.together,
            dict(results={"stillness": probes.Result(probes.find("stillness"), "done", "Found.")}),
        ),
        "probes.card.write": (probes.card.write, dict(results={}, folder=m.folder)),
        "Stimuli.of": (probes.Stimuli.of, dict(source="photographs", n=1)),
        "Stimuli.array": (probes.Stimuli.of([m.scene]).array, dict(name="image-0")),
        "Stimuli.where": (probes.Stimuli.of([m.scene]).where, dict(chosen=[True])),
        "Stimuli.prepared": (probes.Stimuli.of([m.scene]).prepared, dict(height=64, width=64)),
        "stimuli.from_arrays": (stimuli.from_arrays, dict(names=["a"], images=[m.scene], source="a", licence="b")),
        "stimuli.still": (stimuli.still, dict(image=image, frames=2)),
        "stimuli.panned": (stimuli.panned, dict(image=image, frames=2, px=1.0)),
        "stimuli.blurred": (stimuli.blurred, dict(frames=image[None], sigma=1.0)),
        "stimuli.damaged": (stimuli.damaged, dict(image=face, what="melted", melt=0.02)),
        "stimuli.fading": (stimuli.fading, dict(frames=image[None], blur=1.0, shift=0.1, start=0)),
        "probe.most": (probe_.most, dict(check="a", good=[True], least=0.5)),
        "probe.near": (probe_.near, dict(check="a", values=[1.0], true=1.0, within=0.1, worst=False)),
        "probe.graded": (probe_.graded, dict(what="a", full=[1.0], half=[0.5], threshold=1.0)),
        "probe.below": (probe_.below, dict(check="a", values=[1.0], limit=1.0)),
        "probe.above": (probe_.above, dict(check="a", values=[1.0], limit=1.0)),
        "probe.Graph": (probe_.Graph, dict(title="a", x="x", y="y", y_label="", x_label="", by="", kind="bars")),
        "probe.Example": (probe_.Example, dict(label="a", frames=image[None])),
        "verify.verify": (verify.verify, dict(checkpoint="no-such", quick=True, out=m.folder / "v")),
    }


def of_bias(m: SimpleNamespace) -> dict[str, Target]:
    design = dict(manifest=m.read, measures=["object_px"], margins={}, seeds=(0,), alpha=0.05, conditions=None)
    design |= dict(reference={}, covariates=[])
    clips = pd.DataFrame({"label_row": [0, 1], "seed": 0, "object_px": [1.0, 2.0]})
    pairs_ = dict(clips=clips, manifest=m.read, measures=["object_px"], margins={"object_px": 1.0}, alpha=0.05)
    pairs_ |= dict(reference={}, covariates=[])
    d = bias.Design(**design)
    flipped = {"label_image": [0, 0, 1, 1], "flip_noise": ["", "left_right"] * 2, "seed": 0, "pan_px": 1.0, "object_dx": 1.0}
    sclips = pd.DataFrame({**flipped, "status": "done"})
    return {
        "bias.Design": (bias.Design, design),
        "bias.compare": (bias.compare, pairs_),
        "bias.any_difference": (
            bias.any_difference,
            dict(clips=clips, manifest=m.read, measures=["object_px"], covariates=[]),
        ),
        "bias.autoencoder_loss": (
            bias.autoencoder_loss,
            dict(pipe=m.pipe, manifest=m.read, conditions=None, measures=["object_px"]),
        ),
        "bias.pair_values": (
            bias.pair_values,
            dict(clips=clips, manifest=m.read, contrast=pairs.contrasts(m.read)[0], measure="object_px"),
        ),
        "bias.register": (bias.register, dict(pipe=m.pipe, design=d, out=m.folder / "reg")),
        "bias.pairs": (bias.pairs, dict(manifest=m.read, count=2)),
        "bias.departures": (bias.departures, dict(planned={}, done={})),
        "bias.slopes": (bias.slopes, dict(result=None, row=None)),
        "bias.worst_pairs": (bias.worst_pairs, dict(result=None, row=None, count=3)),
        "bias.save_figures": (bias.save_figures, dict(result=None, out=m.folder)),
        "planted.world_pairs": (planted.world_pairs, dict(out=m.folder / "w", hue=1, shape=1)),
        "symmetry.directions": (symmetry.directions, dict(clips=sclips, flips=["left_right"], margin=1.0)),
    }


def of_organism(m: SimpleNamespace) -> dict[str, Target]:
    scenes = dict(motion="object", direction="right", hue=0.6, shape="disc", radius=10.0, x=30.0, y=30.0)
    drawn = dict(n=1, seed=0, frames=2, fps=7, motion_bucket_id=100, background="light", **scenes)
    new = dict(
        n=1,
        seed=0,
        frames=2,
        edition=2,
        ground="leaves",
        layers=2,
        sprites=1,
        pattern="text",
        announced="pan",
        motion="pan",
        size=64,
    )
    s = world.scenes(1, seed=0, motion="object", hue=0.6, frames=2)
    tr = dict(video=s.video[0], scene=s.factors.iloc[0])
    rng = np.random.default_rng(0)
    return {
        "world.law": (world.law, dict(fps=7, motion_bucket_id=127, warm=True)),
        "world.scenes": (world.scenes, dict(size=64, **drawn)),
        "world.scenes, 2": (world.scenes, new),
        "world.draw": (world.draw, drawn),
        "world.is_warm": (world.is_warm, dict(hue=0.5)),
        "scenery.pink_noise": (scenery.pink_noise, dict(rng=rng, size=16)),
        "scenery.dead_leaves": (scenery.dead_leaves, dict(rng=rng, size=16, smallest=2.0, coverage=3.0)),
        "trackers.track": (trackers.track, tr),
        "trackers.object_displacement": (trackers.object_displacement, tr),
        "trackers.pan_displacement": (trackers.pan_displacement, tr),
        "trackers.sprite_kept": (trackers.sprite_kept, tr),
        "trackers.sprite_weights": (trackers.sprite_weights, dict(video=s.video[0], hue=0.6)),
    }


def of_show(m: SimpleNamespace) -> dict[str, Target]:
    clip, tr, results, field = m.clip, m.tr, m.results, np.ones((3, 16, 16, 2), np.float32)
    sheet: dict[str, Any] = dict(rows="motion_bucket_id", columns="fps", frame=-1, note="motion_flow_px", clips=[clip] * 4)
    curve: dict[str, Any] = dict(x="motion_bucket_id", y="motion_flow_px", by="fps", together=False, title="")
    fig = show.heat(m.table[["x", "fps"]], title="a", key="x")
    saved: dict[str, Any] = dict(path=m.folder / "f", formats=("csv",))
    grid: dict[str, Any] = dict(size=(16, 16), of=clip, row_labels=["a"], column_labels=["b"], row_title="", column_title="")
    heat: dict[str, Any] = dict(table=m.table[["x", "fps"]], title="", key="x", rows="r", columns="c", centre=0.0)
    sections: dict[str, Any] = dict(title="a", sections={"b": ["c"]}, label="", footer="")
    movie = show.video(clip)
    with svdlab.trace(m.pipe, attention=SPATIAL) as seen:
        seen.clip = svdlab.generate(m.pipe, m.scene, num_inference_steps=1)
    with svdlab.trace(m.pipe, attention="temporal") as temporal:
        svdlab.generate(m.pipe, m.scene, num_inference_steps=1)
    locked = pd.DataFrame({"seed": [0, 0], "step": [0, 1], "sigma": [700.0, 0.1], "motion": [0.1, 1.0], "image": [0.9, 1.0]})
    return {
        "show.about": (lambda things: show.about(things), dict(things=clip)),
        "show.video": (show.video, dict(clips=[clip], labels=["a"], fps=7, columns=1, title="")),
        "show.Video": (show.Video, dict(frames=movie.frames[:2], fps=7, alt="a", facts={})),
        "Video.save": (movie.save, dict(path=m.folder / "v.mp4")),
        "show.filmstrip": (show.filmstrip, dict(clips=clip, labels=["a"], frames=[0], given=False, title="")),
        "show.sheet": (show.sheet, dict(results=results, **sheet, title="")),
        "show.dose_response": (show.dose_response, dict(results=results, **curve)),
        "show.denoising": (show.denoising, dict(tr=tr, frame=0, steps=[0], decoded=None, title="")),
        "show.latents": (show.latents, dict(tr=tr, frame=0, steps=[0], mode="channels", name="latents", title="")),
        "show.flow": (show.flow, dict(clip=field, pairs=[0], title="")),
        "show.flow_colours": (show.flow_colours, dict(field=field, fastest=1.0)),
        "show.camera_path": (show.camera_path, dict(clip=clip, title="")),
        "show.stepwise": (show.stepwise, dict(clip=clip, playback_fps=7, title="")),
        "show.trajectories": (show.trajectories, dict(clip=clip, title="")),
        "show.xt_slice": (show.xt_slice, dict(clip=clip, row=3, title="")),
        "show.heat": (show.heat, heat),
        "show.forest": (show.forest, dict(effects=[m.effect], by="unit", standardised=False, of=clip, title="")),
        "show.failures": (show.failures, dict(results=results, k=2, kinds=["drift"], title="")),
        "show.attention": (
            show.attention,
            dict(tr=seen, names=[SPATIAL], steps=[0], frames=[0], clip=seen.clip, queries=((0.5, 0.5),), title=""),
        ),
        "show.block": (show.block, dict(module="unet.mid_block")),
        "show.lock_in": (show.lock_in, dict(table=locked, threshold=0.9, title="")),
        "lock_in.first_frame": (lock_in.first_frame, dict(tr=temporal)),
        "lock_in.locked": (lock_in.locked, dict(table=locked, threshold=0.9)),
        "overview.overview": (overview.overview, dict(results=results, out=m.folder / "overview")),
        "show.for_paper": (entered(show.for_paper), dict(column=3.3, title=False, footer=False)),
        "show.save": (show.save, dict(fig=fig, **saved)),
        "figure.figure": (figure.figure, dict(width=300.0, height=200.0, of=clip, title="")),
        "figure.graphs": (figure.graphs, dict(size=(300, 200), rows=1, columns=1, of=clip, title="", share=True)),
        "figure.images": (figure.images, dict(**grid, title="")),
        "figure.chosen": (lambda asked: figure.chosen(asked, 3, 2, "frame"), dict(asked=[0])),
        "labels.name": (labels.name, dict(column="object_px")),
        "labels.unit": (labels.unit, dict(column="object_px")),
        "labels.axis": (labels.axis, dict(column="object_px")),
        "labels.ordered": (labels.ordered, dict(values=[1, "a"])),
        "labels.caption": (labels.caption, dict(clip=clip)),
        "labels.sources": (lambda things: labels.sources(things), dict(things=clip)),
        "page.page": (page.page, dict(**sections, folder=m.folder)),
        "page.markdown": (page.markdown, dict(**sections, folder=m.folder)),
    }


def settled(kind: Callable[..., Any]) -> Callable[..., None]:
    """A widget as a call, which ends when nothing is left to draw, and fails with what the screen reports."""

    def call(*args: Any, **kwargs: Any) -> None:
        panel = kind(*args, **kwargs)
        assert panel.settled() and not panel.message.value, panel.message.value

    call.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    return call


def of_widgets(m: SimpleNamespace) -> dict[str, Target]:
    pipe, scene, out = m.pipe, m.scene, m.folder / "exports"
    compared, explored, tries = widgets.compare(m.clip.frames[:2]), widgets.explore(m.results), widgets.live(pipe, scene)
    curve = dict(measures=["motion_flow_px"], x="motion_bucket_id", y="motion_flow_px")
    steps = dict(tr=m.tr, pipe=None, decoded=m.tr.decode(pipe), out=out)
    return {
        "widgets.compare": (settled(widgets.compare), dict(clips={"a": m.clip, "b": m.clip}, out=out)),
        "widgets.explore": (settled(widgets.explore), dict(results=m.results, pipe=None, out=out, **curve)),
        "widgets.step_through": (settled(widgets.step_through), steps),
        "widgets.live": (settled(widgets.live), dict(pipe=pipe, image=scene, conditions=None, seed=0, out=out)),
        "widgets.verdicts": (
            settled(widgets.verdicts),
            dict(results=[probes.Result(probes.find("stillness"), "done", "Found.")], out=out),
        ),
        "widgets.webp": (panel.webp, dict(frames=m.clip.frames, fps=7)),
        "widgets.export": (compared.export, dict(out=out)),
        "widgets.settled": (compared.settled, dict(timeout=1.0)),
        "widgets.select": (explored.select, dict(pane=0, motion_bucket_id=200, fps=6)),
        "widgets.join": (tries.job.join, dict(timeout=1.0)),
    }


GROUPS = (of_pipeline, of_study, of_measure, of_stats, of_probes, of_bias, of_organism, of_show, of_widgets)
