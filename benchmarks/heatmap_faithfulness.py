"""Which heatmaps show what a network goes by: deletion, insertion and pointing game, by method and network.

python benchmarks/heatmap_faithfulness.py [--networks brainmrnet brainmrnet_paper resnet50] [--samples 24]
    [--methods occlusion rise "integrated gradients" cam] [--fillings]
    [--images FOLDER --masks FOLDER --patient-from REGEX] [--keep FOLDER]

Trains each network in a plain loop, on phantoms or on a folder of images with one folder for each class, the first
without a tumour, whose tumours' outlines are in MASKS under the same file names. Patients are divided in halves: one
to train on, one to test. Heatmaps are of test images with a tumour. The measures are those of
`brainscale.models.faithfulness`; differences are paired, with 95 % intervals by patient. Seconds are of one CPU.
"""

import argparse
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.phantoms import draw_outline, draw_phantom
from brainscale.models.explained_score import Score, score_of_network, take_structure_out
from brainscale.models.faithfulness import centre_map, is_peak_in, measure_heatmap, random_map
from brainscale.models.head_mask import find_head_mask
from brainscale.models.heatmaps import METHODS, compute_heatmaps
from brainscale.models.normalisation import normalise
from brainscale.models.perturbation import Hide, occlusion_map
from brainscale.models.registry import HeatmapMethod, build_network
from brainscale.models.resize import bilinear_matrix, resample
from brainscale.reading.preprocess import make_plane
from brainscale.stats.group_means import estimate_mean
from brainscale.stats.resampling import group_codes

TRAINED_ON, TEST_SEED = 400, 1
EPOCHS = {"brainmrnet": 6, "brainmrnet_paper": 16, "vgg16": 4, "resnet50": 5, "densenet121": 6}
"""The batch norm of brainmrnet_paper needs more steps to know its statistics (its momentum is 0.01)."""
LEARNING_RATE = {"vgg16": 1e-4}
RANDOM_MAPS, BATCH = 2, 16
CONTROLS = ("random", "centre")
INSIDE = 128  # grey level of a resized outline from which a pixel belongs to it


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A plane, uint8 [S, S], its class, its patient, and where its tumour is, bool [S, S]; nowhere if unknown."""

    plane: np.ndarray
    tumour: bool
    patient: str
    outline: np.ndarray


def draw_samples(seed: int, count: int, spec: PreprocessConfig) -> list[Sample]:
    """Phantoms, every second one with a lesion."""
    samples = []
    for i in range(count):
        tumour = i % 2 == 0
        outline = make_plane(np.uint8(255 * tumour) * draw_outline(seed, i), spec) >= INSIDE
        plane = make_plane(draw_phantom(seed, i, tumour), spec)
        samples.append(Sample(plane=plane, tumour=tumour, patient=str(i), outline=outline))
    return samples


def read_samples(folder: Path, masks: Path, patient_from: str, spec: PreprocessConfig) -> list[Sample]:
    """Images of a folder, in the order of their names."""
    samples = []
    for number, name in enumerate(sorted(path.name for path in folder.iterdir() if path.is_dir())):
        for path in sorted((folder / name).iterdir()):
            mask = masks / path.name
            grey = np.asarray(Image.open(path).convert("L"))
            plane = make_plane(grey, spec)
            outlined = np.asarray(Image.open(mask).convert("L")) if mask.exists() else np.zeros_like(grey)
            outline = make_plane(outlined, spec) >= INSIDE
            patient = re.search(patient_from, path.name)
            if patient is None:
                raise SystemExit(f"{path.name} does not name a patient by {patient_from}: give --patient-from")
            samples.append(Sample(plane=plane, tumour=number > 0, patient=patient[1], outline=outline))
    return samples


def divide(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Halves of the patients, each in random order: to train on, and to test."""
    generator = np.random.default_rng(0)
    patients = generator.permutation(sorted({sample.patient for sample in samples}))
    tested = set(patients[: len(patients) // 2].tolist())
    mixed = [samples[i] for i in generator.permutation(len(samples))]
    return [s for s in mixed if s.patient not in tested], [s for s in mixed if s.patient in tested]


def by_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One sample of each patient, then a second one of each, and so on."""
    turns: dict[str, int] = {}
    numbers = []
    for sample in samples:
        turns[sample.patient] = turns.get(sample.patient, -1) + 1
        numbers.append(turns[sample.patient])
    return [samples[i] for i in np.argsort(numbers, kind="stable")]


def train(name: str, samples: Sequence[Sample]) -> torch.nn.Module:
    """A network after a few epochs of AdamW over planes, half of them flipped, with a learning rate that falls to 0."""
    torch.manual_seed(0)
    network = build_network(name, 2, seed=0).train()
    planes = torch.from_numpy(np.stack([sample.plane for sample in samples]))
    labels = torch.tensor([int(sample.tumour) for sample in samples])
    steps = EPOCHS[name] * (len(samples) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE.get(name, 1e-3), total_steps=steps)
    for _ in range(EPOCHS[name]):
        for batch in torch.randperm(len(samples)).split(BATCH):
            if len(batch) == BATCH:
                some = planes[batch].flip(2) if torch.rand(()) < 0.5 else planes[batch]
                loss = torch.nn.functional.cross_entropy(network(normalise(some)), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


def auroc(score: Score, samples: Sequence[Sample]) -> float:
    scores = score(np.stack([sample.plane for sample in samples]))
    tumour = np.array([sample.tumour for sample in samples])
    pairs = scores[tumour][:, None] - scores[~tumour]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def fill_with_head_mean(plane: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    head = find_head_mask(plane)
    return np.where(hidden & head, plane[head].mean() if head.any() else 0, plane).astype(np.uint8)


def fill_with_blurred(plane: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    return np.where(hidden, take_structure_out(plane), plane)


def fill_with_black(plane: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    return np.where(hidden, np.uint8(0), plane)


Maker = Callable[[np.ndarray], np.ndarray]


def makers_of(
    network: torch.nn.Module, name: str, methods: Sequence[HeatmapMethod], *, fillings: bool
) -> dict[str, Maker]:
    """Method → function from a plane to its heatmap."""
    score = score_of_network(network)

    def make(method: HeatmapMethod, plane: np.ndarray) -> np.ndarray:
        planes = torch.tensor(plane)[None]
        maps = compute_heatmaps(network, planes, architecture=name, method=method)
        return maps[0].numpy()

    def occlude(fill: Hide, plane: np.ndarray) -> np.ndarray:
        cells = torch.from_numpy(occlusion_map(score, plane, hide=fill)).clamp(min=0)
        matrix = bilinear_matrix(len(cells), len(plane))
        return resample(cells, matrix, matrix).numpy()

    makers: dict[str, Maker] = {method: partial(make, method) for method in methods}
    if fillings:
        makers["occlusion, mean of head"] = partial(occlude, fill_with_head_mean)
        makers["occlusion, blurred"] = partial(occlude, fill_with_blurred)
        makers["occlusion, black"] = partial(occlude, fill_with_black)
    return makers


def measure(
    network: torch.nn.Module, makers: Mapping[str, Maker], samples: Sequence[Sample]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Method → deletion, insertion, pointing, and whether the peak is in the head: float64 [samples, 4].

    Also method → CPU seconds for a picture.
    """
    score = score_of_network(network)
    rows: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for number, sample in enumerate(samples):

        def figures(heatmap: np.ndarray, sample: Sample = sample) -> np.ndarray:
            measured = measure_heatmap(score, sample.plane, heatmap)
            regions = (sample.outline, find_head_mask(sample.plane))
            return np.array([measured.deletion, measured.insertion, *(is_peak_in(heatmap, r) for r in regions)])

        for method, make in makers.items():
            start = time.process_time()
            heatmap = make(sample.plane)
            seconds[method] = seconds.get(method, 0) + (time.process_time() - start) / len(samples)
            rows.setdefault(method, []).append(figures(heatmap))
        randoms = [figures(random_map(sample.plane, number, i)) for i in range(RANDOM_MAPS)]
        rows.setdefault("random", []).append(np.mean(randoms, axis=0))
        rows.setdefault("centre", []).append(figures(centre_map(sample.plane)))
    return {method: np.array(values) for method, values in rows.items()}, seconds


def print_table(measured: Mapping[str, np.ndarray], seconds: Mapping[str, float], codes: np.ndarray) -> None:
    print(f"{len(codes)} samples of {len(np.unique(codes))} patients")
    print(f"{'method':<24}{'deletion':>9}{'insertion':>10}{'pointing':>9}{'in head':>8}", end="")
    print("".join(f"{f'faithfulness − {c}':>28}" for c in CONTROLS), end="")
    print("".join(f"{f'pointing − {c}':>26}" for c in CONTROLS) + f"{'CPU s':>8}")
    for method, values in measured.items():
        deletion, insertion, pointing, in_head = values.mean(0)
        line = f"{method:<24}{deletion:>9.3f}{insertion:>10.3f}{pointing:>9.2f}{in_head:>8.2f}"
        for width, weights in ((28, [-1.0, 1.0, 0.0, 0.0]), (26, [0.0, 0.0, 1.0, 0.0])):
            for control in CONTROLS:
                difference = estimate_mean((values - measured[control]) @ np.array(weights), codes)
                text = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
                line += f"{'' if control == method else text:>{width}}"
        print(line + (f"{seconds[method]:>8.2f}" if method in seconds else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["brainmrnet", "brainmrnet_paper", "resnet50"])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--side", type=int, default=64, help="side of the planes, pixels")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--patient-from", default=r"^([^_]+_[^_]+)_")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--fillings", action="store_true", help="other fillings for occlusion too")
    parser.add_argument("--keep", type=Path, help="folder for the weights, which another call uses again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = PreprocessConfig(image_size=arguments.side, crop=1.0)
    if arguments.images is None:
        training, tests = draw_samples(0, TRAINED_ON, spec), draw_samples(TEST_SEED, 2 * arguments.samples, spec)
    else:
        training, tests = divide(read_samples(arguments.images, arguments.masks, arguments.patient_from, spec))
        training = by_turn(training)[:TRAINED_ON]
    explained = by_turn([sample for sample in tests if sample.outline.any()])[: arguments.samples]
    for name in arguments.networks:
        kept = None if arguments.keep is None else arguments.keep / f"{name}-{arguments.side}.safetensors"
        if kept is not None and kept.exists():
            network = build_network(name, 2).eval()
            network.load_state_dict(load_file(kept))
        else:
            network = train(name, training)
            if kept is not None:
                save_file(network.state_dict(), kept)
        shown = by_turn(tests)[:200]
        print(f"\n{name}: AUROC {auroc(score_of_network(network), shown):.3f} of {len(shown)} test images; ", end="")
        codes = group_codes(sample.patient for sample in explained)
        makers = makers_of(network, name, arguments.methods, fillings=arguments.fillings)
        print_table(*measure(network, makers, explained), codes)


if __name__ == "__main__":
    main()
