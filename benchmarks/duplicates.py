"""Which copies of a scan are found, which different scans are taken for copies, and what it costs.

python benchmarks/duplicates.py [FOLDER] [--phantoms 26000] [--made-up 10000 100000 1000000]

FOLDER holds lgg_flair/ (slices of patients, with labels.csv) and brain_mri_253/; without it, only phantoms are used.
Copies are made by tests/support/copies.py. Made-up images are smooth noise, hashed like others. Times are of one core.
"""

import argparse
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from PIL import Image

from brainscale.dataset.groups import assign_groups
from brainscale.dataset.near_duplicates import SIMILARITY, find_near_duplicates
from brainscale.dataset.phantoms import draw_phantom
from brainscale.reading.signature import SIDE, hash_thumbnail
from brainscale.schema import MANIFEST

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.copies import COPIES, recognisable

SCANS = 300


def make_table(rows: Sequence[dict[str, str | bytes | None]]) -> pa.Table:
    """A manifest of images that share neither bytes nor patient."""
    columns = {name: [row[name] for row in rows] for name in ("phash", "head_phash", "signature")}
    columns["sha256"] = [f"{number:064x}"[::-1] for number in range(len(rows))]
    nulls = pa.nulls(len(rows))
    return pa.table([pa.array(columns.get(f.name, nulls), f.type) for f in MANIFEST], schema=MANIFEST)


def pairs_of(rows: Sequence[dict[str, str | bytes | None]]) -> list[tuple[int, int]]:
    near = find_near_duplicates(make_table(rows))
    return list(zip(near.first.tolist(), near.second.tolist(), strict=True))


def read_grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def print_recall(scans: dict[str, list[np.ndarray]]) -> None:
    """Find each copy among all scans and the other copies of its kind."""
    print(f"{'copies found':<44}" + "".join(f"{name:>12}" for name in scans))
    for kind, change in COPIES.items():
        shares, wrong = [], 0
        for images in scans.values():
            draw = np.random.default_rng(0)
            found = pairs_of([recognisable(image) for image in [*images, *(change(i, draw) for i in images)]])
            copies = {(number, number + len(images)) for number in range(len(images))}
            shares.append(len(copies & set(found)) / len(copies))
            wrong += len(set(found) - copies)
        print(f"{kind:<44}" + "".join(f"{share:>12.1%}" for share in shares), f"  wrong pairs: {wrong}")


def print_precision(folder: Path) -> None:
    """Join different slices: of one patient, near and far, and of different patients."""
    rows = pa.csv.read_csv(folder / "labels.csv").to_pylist()
    names = [row["sample_id"].rsplit("_", 1)[1].removesuffix(".png") for row in rows]
    slices = [(row["patient"], int(name)) for row, name in zip(rows, names, strict=True)]
    joined = Counter(
        abs(slices[i][1] - slices[j][1]) if slices[i][0] == slices[j][0] else -1
        for i, j in pairs_of([recognisable(read_grey(folder / row["sample_id"])) for row in rows])
    )
    print(f"\n{'different slices joined, lgg_flair':<44}{'joined':>12}{'pairs':>12}")
    for gap in (1, 2, 3):
        pairs = len(set(slices) & {(patient, number + gap) for patient, number in slices})
        print(f"{f'of one patient, {gap} apart':<44}{joined[gap]:>12}{pairs:>12}")
    patients = Counter(patient for patient, _ in slices)
    others = (len(slices) ** 2 - sum(count**2 for count in patients.values())) // 2
    print(f"{'of one patient, further apart':<44}{sum(n for gap, n in joined.items() if gap > 3):>12}")
    print(f"{'of two patients':<44}{joined[-1]:>12}{others:>12}")


def print_public_set(folder: Path) -> None:
    files = sorted(folder.glob("*/*"))
    table = make_table([recognisable(read_grey(file)) for file in files])
    near = find_near_duplicates(table, 0.8)
    joined = near.where(near.similarity >= SIMILARITY)
    groups = Counter(assign_groups(table)["group"].to_pylist())
    labels = sum(files[i].parent != files[j].parent for i, j in zip(joined.first, joined.second, strict=True))
    print(f"\n{folder.name}: {len(files)} images in {len(groups)} groups, the largest of {max(groups.values())}")
    print(f"least similar pair joined {joined.similarity.min():.4f}, {labels} joined pairs with two labels")
    print(f"{len(near) - len(joined)} other candidate pairs of a similarity of 0.8 or more")


def print_chance(count: int) -> None:
    rows = [recognisable(draw_phantom(7, number, number % 2 == 0)) for number in range(count)]
    table = make_table(rows)
    start = time.process_time()
    sizes = Counter(assign_groups(table)["group"].to_pylist())
    print(f"\n{count:,} different phantoms: largest group {max(sizes.values())}, {time.process_time() - start:.0f} s")


def print_cost(sizes: Sequence[int]) -> None:
    print(f"\n{'made-up images':<16}{'seconds':>10}{'µs an image':>13}{'MiB':>8}{'pairs':>8}")
    for count in sizes:
        draw = np.random.default_rng(0)
        coarse = draw.integers(0, 256, (count, 8, 8), np.uint8)
        signatures = np.repeat(np.repeat(coarse, SIDE // 8, axis=1), SIDE // 8, axis=2)
        hashes = [hash_thumbnail(signature) for signature in signatures]
        rows = [
            {"phash": digits, "head_phash": digits, "signature": signature.tobytes()}
            for digits, signature in zip(hashes, signatures, strict=True)
        ]
        table = make_table(rows)
        del rows, hashes, coarse, signatures
        start = time.process_time()
        pairs = len(find_near_duplicates(table))
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{count:<16,}{seconds:>10.1f}{1e6 * seconds / count:>13.0f}{peak:>8}{pairs:>8}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--phantoms", type=int, default=26_000)
    parser.add_argument("--made-up", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    sets = {"phantoms": [draw_phantom(1, number, number % 2 == 0) for number in range(SCANS)]}
    if arguments.folder:
        by_patient = defaultdict(list)
        for path in sorted((arguments.folder / "lgg_flair").glob("*/*.png"), key=lambda path: path.name):
            by_patient[path.name.rsplit("_", 1)[0]].append(path)
        sets["lgg_flair"] = [read_grey(paths[len(paths) // 2]) for paths in by_patient.values()]
    print_recall(sets)
    if arguments.folder:
        print_precision(arguments.folder / "lgg_flair")
        print_public_set(arguments.folder / "brain_mri_253")
    print_cost(arguments.made_up)
    print_chance(arguments.phantoms)
