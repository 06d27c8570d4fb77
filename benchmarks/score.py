"""What bulk scoring costs, side by side with what users would otherwise pick, on the same images and weights.

python benchmarks/score.py [FOLDER] [--images 10 400] [--sides ours …] [--rounds 3] [--parts peers steady start memory]

FOLDER holds images, repeated until there are enough (phantoms as JPEG without one). Peers and ours are processes
from start to exit: imports, compilation, Ray, and writing Parquet included. They take turns within a round. The sides
with OpenVINO are measured where it is installed. The part `steady` takes the largest number of images.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from PIL import Image
from safetensors.torch import save_file
from score_peers import MEAN, STD, network, rows
from torch import nn

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.phantoms import draw_phantom
from brainscale.models import engines
from brainscale.models.bundle import ONNX, WEIGHTS, open_bundle, write_model_info
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx
from brainscale.models.processor import read_cpu_model
from brainscale.models.registry import build_network, count_parameters
from brainscale.reading.decoder import decode
from brainscale.reading.request import ReadRequest
from brainscale.training.environment import read_library_versions

PARTS = ["peers", "steady", "start", "memory"]
EXPORTED = "exported.onnx"
PLAIN_SCRIPTS = {
    "plain-exported": (EXPORTED, "onnxruntime"),
    "plain": (ONNX, "onnxruntime"),
    "openvino-exported": (EXPORTED, "openvino"),
    "openvino": (ONNX, "openvino"),
}
"""Side of the plain script → graph and engine."""
WHAT = {
    "notebook": "the published notebook's evaluation loop",
    "compiled": "a loop with torch.compile and frozen weights",
    "timm": "the way of timm's inference script",
    "timm-compiled": "the way of timm's inference script, --torchcompile",
    "ray": "Ray's documented example",
    "plain-exported": "plain script, ONNX Runtime, torch's export",
    "plain": "plain script, ONNX Runtime, the bundle's graph",
    "openvino-exported": "plain script, OpenVINO, torch's export",
    "openvino": "plain script, OpenVINO, the bundle's graph",
    "ours": "brainscale score",
}
PLAIN = "(d) ONNX Runtime alone, the network as torch exports it"
OUR_GRAPH = "(d) ONNX Runtime alone, the bundle's graph"
BATCHES = (1, 8, 32)
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16")


def make_bundle(folder: Path, size: int) -> Path:
    """Untrained weights whose batch norms have seen something."""
    folder.mkdir()
    torch.manual_seed(0)
    network = build_network("brainmrnet", 2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.get_buffer("running_mean"), -0.2, 0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    save_file(network.state_dict(), folder / WEIGHTS)
    export_onnx(NetworkSpec(architecture="brainmrnet"), 2, size, network.state_dict(), folder / ONNX)
    points = {"slice": {"threshold": 0.5, "threshold_source": "fixed"}}
    facts = {"architecture": "brainmrnet", "classes": DEFAULT_CLASSES, "operating_points": points}
    sources = {"manifest_sha256": "", "config_sha256": "", "seed": 0, "epoch": 0, "versions": read_library_versions()}
    spec = PreprocessConfig(image_size=size)
    write_model_info(folder, {**facts, **sources, "preprocess": spec, "parameters": count_parameters(network)})
    return folder


def make_images(source: Path | None, folder: Path, count: int) -> Path:
    """So many JPEGs in one folder: copies by hard link, or phantoms."""
    folder.mkdir()
    originals = sorted(p for p in source.rglob("*") if p.is_file()) if source else []
    if source and not originals:
        raise SystemExit(f"{source} holds no files")
    if not originals:
        for i in range(min(count, 100)):
            originals.append(folder / f"original-{i:03}.jpg")
            Image.fromarray(draw_phantom(0, i, tumour=bool(i % 2), size=400)).save(originals[-1])
    for i, original in zip(range(count), itertools.cycle(originals), strict=False):
        copy = folder / f"{i:06}.jpg"
        try:
            os.link(original, copy)
        except OSError:  # another disk
            copy.write_bytes(original.read_bytes())
    for original in folder.glob("original-*"):
        original.unlink()
    return folder


def command(side: str, bundle: Path, images: Path, out: Path) -> list[str]:
    """Return the command of a side; a script's output is a file, Ray's and ours are folders."""
    if side == "ours":
        return [sys.executable, "-m", "brainscale", "score", str(bundle), str(images), "--out", str(out)]
    here = Path(__file__).parent
    if side in PLAIN_SCRIPTS:
        graph, engine = PLAIN_SCRIPTS[side]
        return [*(sys.executable, str(here / "score_plain.py"), str(bundle / graph), str(images), str(out)), engine]
    return [sys.executable, str(here / "score_peers.py"), side, str(bundle), str(images), str(out)]


def run(arguments: list[str]) -> float:
    """Seconds from start to exit; what a side said, if it failed."""
    start = time.perf_counter()
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return seconds


@dataclass(frozen=True)
class Cost:
    """What a process and all below it took, from start to exit.

    Attributes:
        seconds: wall time.
        cpu_seconds: user and system time.
        mebibytes: peak memory; shared pages count once.
    """

    seconds: float
    cpu_seconds: float
    mebibytes: float


def measure(arguments: list[str], environment: dict[str, str] | None = None) -> Cost:
    """Run a command that must succeed."""
    before, began = os.times(), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=said, env=os.environ | (environment or {})
        )
        peak = watch(process, 0.1)
        seconds, after = time.perf_counter() - began, os.times()
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{text}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(seconds, cpu, peak / 2**20)


def scored(out: Path, count: int) -> dict[str, float]:
    """Probability by file name: so many rows, each file once."""
    written = list(rows(out))
    found = dict(written)
    if not len(written) == len(found) == count:
        raise SystemExit(f"{out} holds {len(written)} rows of {len(found)} files, not of {count}")
    return found


def peers(scratch: Path, source: Path | None, counts: list[int], rounds: int, wanted: list[str]) -> None:
    """Whole jobs of several sizes, the sides in turns."""
    bundle = make_bundle(scratch / "bundle", 224)
    plain_export(bundle, bundle / EXPORTED)
    missing = {side for side, (_, engine) in PLAIN_SCRIPTS.items() if not find_spec(engine)}
    sides = [side for side in WHAT if side in {*wanted, "ours"} - missing]
    print(f"brainmrnet at 224² on {os.cpu_count()} cores of {describe_processor()}; from start to exit,")
    print(f"median (range) of {rounds} rounds; CPU-seconds and memory of all processes of a side")
    for count in counts:
        compare_sides(scratch / str(count), bundle, source, count, sides, rounds)


def compare_sides(scratch: Path, bundle: Path, source: Path | None, count: int, sides: list[str], rounds: int) -> None:
    """Measure and print the sides of one size; each round compiles anew, as a first run does."""
    scratch.mkdir()
    images = make_images(source, scratch / "images", count)
    taken: dict[str, list[Cost]] = {side: [] for side in sides}
    found = {}
    for turn in range(rounds):
        for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            out, cache = scratch / f"{side}-{turn}", scratch / f"cache-{side}-{turn}"
            taken[side].append(measure(command(side, bundle, images, out), {"TORCHINDUCTOR_CACHE_DIR": str(cache)}))
            found[side] = scored(out, count)
    ours = statistics.median(cost.seconds for cost in taken["ours"])
    print(f"{count} JPEGs")
    for side, costs in taken.items():
        apart = max(abs(p - found["ours"][name]) for name, p in found[side].items())
        wall = statistics.median(cost.seconds for cost in costs)
        columns = [spread([getattr(cost, name) for cost in costs]) for name in ("seconds", "cpu_seconds", "mebibytes")]
        print(
            f"  {WHAT[side]:<52}{columns[0]:>24} s{columns[1]:>24} CPU-s{columns[2]:>24} MiB"
            f"{wall / ours:7.2f} × ours; at most {apart:.1e} from ours",
            flush=True,
        )


def spread(values: list[float]) -> str:
    """Return the median with the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def describe_processor() -> str:
    """Return the CPU's name and the vector instructions that matter here."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    known = [
        name for name in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in flags
    ]
    return f"{read_cpu_model()} ({', '.join(known)})"


PROBE = """
import json, sys, time
marks = {"process starts": float(sys.argv[4])}
from brainscale.cluster.session import session
from brainscale.scoring.bulk import score_files
marks["python and imports"] = time.time()
parts = []
with session(1):
    marks["ray.init"] = time.time()
    score_files(sys.argv[1], [sys.argv[2]], sys.argv[3], on_part=lambda done: parts.append((time.time(), done.files)))
    marks["rest of the scoring"] = time.time()
marks["ray.shutdown"] = time.time()
with open(sys.argv[5], "w") as file:
    json.dump({"marks": marks, "parts": parts}, file)
"""


def probe(bundle: Path, images: Path, out: Path) -> tuple[list[str], Path]:
    """The command of one job of ours that writes down when it did what, and where it writes that."""
    told = out.with_suffix(".json")
    return [sys.executable, "-c", PROBE, str(bundle), str(images), str(out), str(time.time()), str(told)], told


def told_in(path: Path) -> tuple[dict[str, float], list[tuple[float, int]]]:
    """When a job did what, and when each part came with how many files."""
    found = json.loads(path.read_text())
    return found["marks"], found["parts"]


def probed(bundle: Path, images: Path, out: Path) -> tuple[dict[str, float], list[tuple[float, int]]]:
    """The same of one job of ours, with its process's exit."""
    arguments, told = probe(bundle, images, out)
    run(arguments)
    ended = time.time()
    marks, parts = told_in(told)
    return {**marks, "exit": ended}, parts


def rate(parts: list[tuple[float, int]]) -> float:
    """Images a second between the first part and the last but one: without the start, and without a short end."""
    used = parts[1:-1]
    if not used:
        raise SystemExit(f"steady state needs 3 parts, and the job wrote {len(parts)}: give it more images")
    return sum(count for _, count in used) / (used[-1][0] - parts[0][0])


def steady(scratch: Path, images: Path, rounds: int) -> None:
    """Ours between its first and last part, against ONNX Runtime alone on tensors in memory."""
    bundle = make_bundle(scratch / "steady", 224)
    opened = open_bundle(bundle)
    request = ReadRequest(preprocess=opened.info.preprocess)
    files = sorted(images.iterdir())[:256]
    planes = np.stack([np.frombuffer(next(iter(decode(f.read_bytes(), request)))[1], np.uint8) for f in files])
    planes = planes.reshape(-1, 224, 224)
    onnx = engines.EngineOptions(name="onnx")
    ours_alone = engines.load_engine(opened.info, engines.read_network(opened, onnx), onnx, threads=2)
    plain = plain_export(bundle, scratch / "plain.onnx")
    limits: dict[str, Callable[[], object]] = {
        **{f"{PLAIN}, batches of {n}": forward_only(plain, normal(planes), n) for n in BATCHES},
        **{f"{OUR_GRAPH}, batches of {n}": forward_only(bundle / ONNX, planes, n) for n in BATCHES},
        "our engine alone: our graph, a thread an image": lambda: ours_alone(planes),
    }
    for side in limits.values():
        side()  # not counted: a session's first run takes its memory
    best: dict[str, float] = dict.fromkeys(limits, 0.0)
    ours = 0.0
    for turn in range(rounds):
        for name, side in limits.items():
            start = time.perf_counter()
            side()
            best[name] = max(best[name], len(planes) / (time.perf_counter() - start))
        ours = max(ours, rate(probed(bundle, images, scratch / f"steady-{turn}")[1]))
    print(f"steady state, brainmrnet at 224², best of {rounds}")
    for name, value in [*best.items(), ("brainscale score, start excluded", ours)]:
        print(f"  {name:<66}{value:7.2f} images/s")
    for what in (PLAIN, OUR_GRAPH, "our engine alone"):
        print(f"  ours / {what}: {ours / max(v for name, v in best.items() if name.startswith(what)):.3f}", flush=True)


def plain_export(bundle: Path, path: Path) -> Path:
    """The network as torch exports it: float32 [N, 3, 224, 224] → probabilities."""
    model = nn.Sequential(network(bundle), nn.Softmax(1)).eval()
    example, batch = torch.zeros(2, 3, 224, 224), torch.export.Dim("batch")
    torch.onnx.export(model, (example,), path, dynamic_shapes=({0: batch},), dynamo=True, verbose=False)
    return path


def normal(planes: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S] → float32 [N, 3, S, S], as the peers normalise."""
    channels = np.repeat(planes[:, None].astype(np.float32) / 255, 3, 1)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    return np.ascontiguousarray((channels - mean) / std)


def forward_only(path: Path, tensors: np.ndarray, batch: int) -> Callable[[], object]:
    """A loop over batches, with two threads on each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda: [session.run(None, {given.name: tensors[at : at + batch]}) for at in range(0, len(tensors), batch)]


def start(scratch: Path, images: Path) -> None:
    """Where a job of ten images spends its time."""
    ten = make_images(images, scratch / "ten", 10)
    marks, parts = probed(make_bundle(scratch / "small", 224), ten, scratch / "ten-out")
    events = sorted([*((when, what) for what, when in marks.items()), (parts[0][0], "first part")])
    print("a job of 10 images")
    for (before, _), (when, what) in itertools.pairwise(events):
        print(f"  {when - before:6.1f} s  {what}", flush=True)
    print(f"  {events[-1][0] - events[0][0]:6.1f} s  from start to exit")


def memory(scratch: Path, source: Path | None, counts: list[int]) -> None:
    """Peak memory of all processes of a job, shared pages counted once; at 64², so that it ends today."""
    bundle = make_bundle(scratch / "tiny", 64)
    peaks = []
    for count in counts:
        images = make_images(source, scratch / f"many-{count}", count)
        arguments, told = probe(bundle, images, scratch / f"out-{count}")
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peaks.append(watch(process))
        if process.returncode:
            raise SystemExit(f"scoring {count} images ended with {process.returncode}")
        each = 1000 / rate(told_in(told)[1])
        print(f"  {count:>7} images: peak {peaks[-1] / 2**20:7.0f} MiB, {each:6.2f} ms an image, steady", flush=True)
    print(f"  {peaks[-1] / peaks[0]:.2f} times the memory for {counts[-1] / counts[0]:.0f} times the images")


def watch(process: subprocess.Popen[bytes], pause: float = 0.5) -> int:
    """The peak of a process and all below it until it ends, bytes; looked at after each pause in seconds."""
    top, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        with suppress(psutil.NoSuchProcess):
            for part in [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += part.memory_full_info().pss
        peak = max(peak, total)
        time.sleep(pause)
    return peak


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 400, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(WHAT), choices=WHAT)
    parser.add_argument("--memory-images", type=int, nargs=2, default=[1000, 20_000])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "peers" in given.parts:
            peers(scratch, given.folder, given.images, given.rounds, given.sides)
        images = make_images(given.folder, scratch / "images", max(given.images))
        if "steady" in given.parts:
            steady(scratch, images, given.rounds)
        if "start" in given.parts:
            start(scratch, images)
        if "memory" in given.parts:
            memory(scratch, given.folder, given.memory_images)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
