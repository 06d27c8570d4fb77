"""How well novelty tells unusual samples from usual ones, and whether its scale is right.

python benchmarks/novelty.py SCRATCH [--data FOLDER] [--unlike TEXT] [--external FOLDER] [--run RUN] [--speed]

Without --data, a small model learns from phantoms, and its test split is set against phantoms with inverted grey
values, turned upside down, an empty plane, and noise. With --data, it learns from that folder, and phantoms and the
external images are unusual too. A sample whose id contains the text of --unlike is kept out of training: it goes to
the test split, and stands for itself. --run takes a run that SCRATCH/split.parquet trained. Each AUROC is novelty's,
unusual against usual test samples (without those of --unlike), with its 95 % interval. --speed times the ONNX engine
with its features and without, and compares engines.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from scipy.special import expit, logit

import brainscale as bs
from brainscale.dataset.manifest import write_manifest
from brainscale.dataset.phantoms import draw_phantom, write_phantoms
from brainscale.models.engines import EngineOptions, load_engine, read_network
from brainscale.stats.delong import delong

SMALL = ("data.image_size=64", "train.batch_size=16", "train.micro_batch=16", "train.patience=100")
EXTERNAL = 200
"""Images of the external folder at most, evenly spaced."""


def split_samples(data: Path, unlike: str | None) -> pa.Table:
    """A split manifest, in which the group of the unlike sample is in the test split."""
    manifest = bs.split(bs.index(str(data)), val=0.15, test=0.2)
    if unlike is None:
        return manifest
    groups = manifest.filter(pc.match_substring(manifest["sample_id"], unlike))["group"].combine_chunks()
    splits = pc.if_else(pc.is_in(manifest["group"], groups), "test", manifest["split"])
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), splits)


def write_unusual(planes: Iterable[np.ndarray], folder: Path) -> Path:
    """A folder of PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(planes):
        Image.fromarray(plane).save(folder / f"{number:04d}.png")
    return folder


def make_unusual(scratch: Path, usual: list[Path], with_phantoms: bool) -> dict[str, Path]:
    """Name → folder of unusual pictures, made from the usual test pictures or by themselves."""
    noise = np.random.default_rng(0)
    grey = [np.asarray(Image.open(path).convert("L")) for path in usual]
    phantoms = (draw_phantom(7, i, i % 2 == 0) for i in range(100))
    return {
        **({"phantoms": write_unusual(phantoms, scratch / "unusual/phantoms")} if with_phantoms else {}),
        "inverted": write_unusual((255 - plane for plane in grey), scratch / "unusual/inverted"),
        "upside down": write_unusual((plane[::-1] for plane in grey), scratch / "unusual/upside-down"),
        "noise": write_unusual(
            (noise.integers(0, 256, (160, 160), np.uint8) for _ in range(40)), scratch / "unusual/noise"
        ),
        "empty": write_unusual([np.zeros((160, 160), np.uint8)], scratch / "unusual/empty"),
    }


def compare(name: str, usual: np.ndarray, unusual: np.ndarray, groups: list[str]) -> None:
    """Print the AUROC of unusual against usual samples."""
    novelty = np.concatenate([usual, unusual]).astype(np.float64)
    labels = np.repeat([0, 1], [len(usual), len(unusual)])
    codes = np.unique([*groups, *(f"{name} {i}" for i in range(len(unusual)))], return_inverse=True)[1]
    auroc, variance = delong(novelty, labels, codes)
    interval = "no interval"
    if variance > 0 and 0 < auroc < 1:  # on the scale of log odds, as the AUROC is bounded
        low, high = expit(logit(auroc) + np.array([-1.96, 1.96]) * np.sqrt(variance) / (auroc * (1 - auroc)))
        interval = f"{low:.3f} to {high:.3f}"
    print(
        f"{name:<14} AUROC {auroc:.3f} ({interval}), n = {len(unusual):>4}; median novelty "
        f"{np.median(unusual):.3f}; above 0.99: {np.mean(unusual >= 0.99):.1%}",
        flush=True,
    )


def compare_engines(run: str, planes: np.ndarray) -> None:
    """Print the images per second of the ONNX engine with and without features, and how far engines differ."""
    model = bs.load_model(run)
    bundle, found = model.bundle, {}
    for name in ("onnx", "torch"):
        options = EngineOptions(name=name)
        engine = load_engine(bundle.info, read_network(bundle, options), options)
        found[name] = bundle.novelty.measure(engine(planes).features)
    print(f"largest difference of novelty between engines: {np.abs(found['onnx'] - found['torch']).max():.1e}")
    graph = onnx.load(bundle.onnx)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {"with": onnxruntime.InferenceSession(graph.SerializeToString(), options)}
    del graph.graph.output[1]
    sessions["without"] = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    best = dict.fromkeys(sessions, np.inf)
    for _ in range(15):
        for name, session in sessions.items():
            began = time.process_time()
            for i in range(20):
                outputs = session.run(None, {"planes": planes[i % len(planes)][None]})
                if name == "with":
                    bundle.novelty.measure(outputs[1])
            best[name] = min(best[name], (time.process_time() - began) / 20)
    print(
        f"ONNX, one thread, images per second of CPU time: {1 / best['without']:.1f} without features, "
        f"{1 / best['with']:.1f} with novelty ({best['with'] / best['without'] - 1:+.1%} time)"
    )


def main() -> None:
    """Train, or take a run, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--unlike")
    parser.add_argument("--external", type=Path)
    parser.add_argument("--run")
    parser.add_argument("--config", default="brainmrnet_paper")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--speed", action="store_true")
    asked = parser.parse_args()
    data = asked.data or asked.scratch / "phantoms"
    if asked.data is None and not data.exists():
        write_phantoms(data, 240, seed=1)
    file = asked.scratch / "split.parquet"
    if not file.exists():
        asked.scratch.mkdir(parents=True, exist_ok=True)
        write_manifest(split_samples(data, asked.unlike), file)
    manifest = bs.load_manifest(file)
    run = asked.run or asked.scratch / "run"
    if asked.run is None:
        with bs.session():
            bs.train(str(file), str(run), config=asked.config, overrides=SMALL, epochs=asked.epochs)
    model = bs.load_model(run)
    print(model.bundle.info.novelty_source)
    rows = manifest.filter(pc.equal(manifest["split"], "test"))
    table = model.predict([str(data / name) for name in rows["sample_id"].to_pylist()])
    by_name = dict(zip((Path(uri).name for uri in table["uri"].to_pylist()), table["novelty"].to_pylist(), strict=True))
    names = [Path(name).name for name in rows["sample_id"].to_pylist()]
    novelty = np.array([by_name[name] for name in names])
    is_unlike = np.array([asked.unlike is not None and asked.unlike in name for name in names])
    usual, groups = novelty[~is_unlike], [g for g, u in zip(rows["group"].to_pylist(), is_unlike, strict=True) if not u]
    shares = [f"above {least}: {np.mean(usual >= least):.1%}" for least in (0.95, 0.99)]
    print(f"usual test samples: {len(usual)}; {', '.join(shares)}")
    if is_unlike.any():
        compare(asked.unlike, usual, novelty[is_unlike], groups)
    paths = [data / name for name, unlike in zip(rows["sample_id"].to_pylist(), is_unlike, strict=True) if not unlike]
    unusual = make_unusual(asked.scratch, paths, with_phantoms=asked.data is not None)
    for name, folder in unusual.items():
        compare(name, usual, model.predict(str(folder))["novelty"].to_numpy(), groups)
    if asked.external:
        files = sorted(path for path in asked.external.rglob("*") if path.suffix in (".png", ".jpg", ".dcm"))
        some = files[:: max(1, len(files) // EXTERNAL)]
        compare(asked.external.name, usual, model.predict([str(path) for path in some])["novelty"].to_numpy(), groups)
    if asked.speed:
        side = model.bundle.info.preprocess.image_size
        compare_engines(
            str(run), np.stack([np.asarray(Image.open(p).convert("L").resize((side, side))) for p in paths])
        )


if __name__ == "__main__":
    main()
