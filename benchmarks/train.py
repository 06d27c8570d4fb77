"""What training costs, side by side with what users would otherwise write, on the same network and batch.

python benchmarks/train.py [FOLDER] [--rounds 3] [--parts epoch averaging scaling profile]

FOLDER holds yes/ and no/ with images (phantoms as JPEG without one). All parts take turns within a round, so
that a slow minute of the machine hits every side; medians over rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.dataset.phantoms import draw_phantom
from brainscale.models.normalisation import normalise
from brainscale.models.registry import build_network
from brainscale.reading.decoder import decode
from brainscale.reading.request import ReadRequest
from brainscale.seeds import make_deterministic
from brainscale.storage.workspace import Workspace
from brainscale.training import exact_sum
from brainscale.training.allocator import keep_buffers
from brainscale.training.checkpoints import Progress
from brainscale.training.step import Learner, Samples
from brainscale.training.worker import TrainingLoop

BATCH = 64
PARTS = ["epoch", "averaging", "scaling", "profile"]
CPU = torch.device("cpu")
NOTEBOOK = transforms.Compose(
    [
        transforms.Resize((256, 256)),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


class Images(Dataset[tuple[Tensor, int]]):
    """The published notebook's data set, written plainly."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return NOTEBOOK(Image.open(self.files[at]).convert("RGB")), int(self.files[at].parent.name == "yes")


class Memory:
    """Decoded planes, as a worker reads them from the object store."""

    def __init__(self, planes: np.ndarray) -> None:
        self.planes = planes

    def take(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S]."""
        return self.planes[positions]

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        """All are held."""


def decoded(files: list[Path], size: int = 224) -> Samples:
    request = ReadRequest(preprocess=load_config(None, [f"data.image_size={size}"]).data.preprocess)
    planes = [np.frombuffer(next(iter(decode(f.read_bytes(), request)))[1], np.uint8) for f in files]
    return Samples(
        sample_ids=[f.name for f in files],
        labels=np.array([int(f.parent.name == "yes") for f in files]),
        planes=Memory(np.stack(planes).reshape(-1, size, size)),
    )


def noise(count: int, size: int) -> Samples:
    planes = np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)
    return Samples(sample_ids=[str(i) for i in range(count)], labels=np.arange(count) % 2, planes=Memory(planes))


def our_learner(config: Config) -> Learner:
    make_deterministic(config.train.threads)
    return Learner(build_network(config.model.name, 2), config.train, config.augment, CPU)


def notebook_epoch(files: list[Path]) -> Callable[[], None]:
    """DataLoader with 2 workers, Pillow transform, eager, NCHW, as published."""
    network = build_network("brainmrnet", 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    loader = DataLoader(Images(files), BATCH, shuffle=True, num_workers=2)

    def epoch() -> None:
        network.train()
        loss_sum = correct = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()

    return epoch


def our_epoch(samples: Samples) -> Callable[[], None]:
    """`Loop`'s own epoch: sampler, augmentation, exact steps, trace of every step; no validation on either side."""
    config = load_config(None, ["resources.checkpoint_seconds=1e9"])
    loop = TrainingLoop(config, Workspace(Path()), our_learner(config), samples, samples, report_epoch=lambda *_: None)

    def epoch() -> None:
        loop.progress = Progress()
        loop._train_epoch(1)

    return epoch


def bare_steps(samples: Samples) -> Callable[[], None]:
    """Forward, backward and optimiser on tensors that are in memory already."""
    network = build_network("brainmrnet", 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    order = np.arange(len(samples.labels))
    ready = [
        (
            normalise(torch.from_numpy(samples.planes.take(order[at : at + BATCH]))),
            torch.from_numpy(samples.labels[at : at + BATCH]),
        )
        for at in range(0, len(order), BATCH)
    ]

    def epoch() -> None:
        network.train()
        for images, labels in ready:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()

    return epoch


def in_turns(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns; one turn each is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


SIDES: dict[str, Callable[[list[Path]], Callable[[], None]]] = {
    "notebook": notebook_epoch,
    "bare loop": lambda files: bare_steps(decoded(files)),
    "bare loop, buffers kept": lambda files: kept(bare_steps, decoded(files)),
    "ours": lambda files: kept(our_epoch, decoded(files)),
}


def kept(side: Callable[..., Callable[[], None]], *given: object) -> Callable[[], None]:
    """A side with the allocator as our training workers have it."""
    keep_buffers()
    return side(*given)


def _epochs_of(name: str, files: list[Path], orders: Connection) -> None:
    """One side in a process of its own: an epoch for each order, answered when it is done."""
    torch.set_num_threads(2)
    epoch = SIDES[name](files)
    orders.send(None)
    while orders.recv():
        epoch()
        orders.send(None)


def epochs(files: list[Path], rounds: int) -> None:
    """Each side in a process of its own, since the allocator's settings hold for a whole process."""
    spawn, lines = mp.get_context("spawn"), {}
    for name in SIDES:
        ours, theirs = spawn.Pipe()
        spawn.Process(target=_epochs_of, args=(name, files, theirs), daemon=name != "notebook").start()
        theirs.close()  # so that a side which dies is an error here, and no silence
        ours.recv()
        lines[name] = ours

    def epoch(line: Connection) -> None:
        line.send(True)
        line.recv()

    seconds = in_turns({name: partial(epoch, line) for name, line in lines.items()}, rounds)
    for line in lines.values():
        line.send(False)
    print(f"epoch of {len(files)} images at 224², batch {BATCH}, brainmrnet, 1 worker with 2 threads")
    for name, value in seconds.items():
        print(f"  {name:<40}{value:8.2f} s{len(files) / value:8.2f} images/s{value / seconds['notebook']:8.3f}")
    bare = min(value for name, value in seconds.items() if name.startswith("bare"))
    print(f"  ours against the fastest bare loop: {seconds['ours'] / bare:.3f}", flush=True)


def _averaging(rank: int, folder: str, model: str, size: int, batch: int, rounds: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    keep_buffers()
    config = load_config(
        None, [f"model.name={model}", "train.threads=1", f"train.batch_size={batch}", f"train.micro_batch={batch // 4}"]
    )
    learner, samples = our_learner(config), noise(batch, size)
    parallel = nn.parallel.DistributedDataParallel(build_network(model, 2))
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-3)
    mine = np.arange(batch).reshape(2, -1)[rank]
    micro = list(np.arange(batch).reshape(config.train.micro_batches, -1))
    planes, labels = torch.from_numpy(samples.planes.take(mine)), torch.from_numpy(samples.labels[mine])

    def ours() -> None:
        learner.step(samples, micro, 1, 0, 1e-3)
        dist.barrier()

    def ddp() -> None:
        """A step that every worker knows as much of as of ours: loss and correctness of each sample of the batch."""
        optimizer.zero_grad()
        logits = parallel(normalise(planes))
        losses = F.cross_entropy(logits, labels, reduction="none")
        losses.mean().backward()
        optimizer.step()
        outcomes = torch.zeros(2, batch)
        outcomes[:, mine] = torch.stack([losses.detach(), (logits.argmax(1) == labels).float()])
        dist.all_reduce(outcomes)
        if not outcomes.isfinite().all():
            raise SystemExit("a loss is not finite")
        dist.barrier()

    vector = torch.zeros(exact_sum.packed_length(learner.network, 2 * batch))

    def sum_alone() -> None:
        exact_sum.sum_over_workers(vector)
        dist.barrier()

    def all_reduce_alone() -> None:
        dist.all_reduce(vector)
        dist.barrier()

    sides = {"DDP": ddp, "ours": ours, "all-reduce alone": all_reduce_alone, "exact sum alone": sum_alone}
    seconds = in_turns(sides, rounds)
    if rank == 0:
        print(f"step of {model} at {size}², batch {batch}, 2 workers with 1 thread")
        for name, value in seconds.items():
            print(f"  {name:<26}{value:8.3f} s")
        print(f"  ours against DDP: {seconds['ours'] / seconds['DDP']:.3f}", flush=True)
    dist.destroy_process_group()


def averaging(rounds: int) -> None:
    for model, size, batch in (("brainmrnet", 224, 16), ("resnet50", 128, 16)):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_averaging, (folder, model, size, batch, rounds), nprocs=2)


def _scaling(rank: int, folder: str, world: int, steps: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    keep_buffers()
    config = load_config(None, ["train.threads=1", "train.batch_size=32", "train.micro_batch=8"])
    learner, samples = our_learner(config), noise(32, 224)
    micro = list(np.arange(32).reshape(config.train.micro_batches, -1))
    learner.step(samples, micro, 1, 0, 1e-3)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        learner.step(samples, micro, 1, 0, 1e-3)
    dist.barrier()
    if rank == 0:
        (Path(folder) / f"{world}").write_text(str(32 * steps / (time.perf_counter() - start)))
    dist.destroy_process_group()


def scaling(rounds: int) -> None:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for world, seen in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_scaling, (folder, world, 2), nprocs=world)
                seen.append(float((Path(folder) / f"{world}").read_text()))
    one, two = (statistics.median(seen) for seen in rates.values())
    print("workers of one thread each, brainmrnet at 224², batch 32")
    print(f"  1 worker {one:.2f} images/s, 2 workers {two:.2f} images/s: {two / one:.2f} times")


def profile() -> None:
    """Where a step's time goes, and what the processor could do at most."""
    keep_buffers()
    torch.set_num_threads(2)
    config = load_config(None)
    learner, samples = our_learner(config), noise(BATCH, 224)
    micro = list(np.arange(BATCH).reshape(config.train.micro_batches, -1))
    learner.step(samples, micro, 1, 0, 1e-3)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(learner.network(torch.zeros(2, 3, 224, 224)), torch.tensor([0, 1])).backward()
    flops = counter.get_total_flops() / 2 * BATCH
    matrix = torch.randn(2048, 2048)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    peak = 5 * 2 * 2048**3 / (time.perf_counter() - start)
    start = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        learner.step(samples, micro, 1, 1, 1e-3)
    seconds = time.perf_counter() - start
    print(
        f"one step of {BATCH} at 224²: {flops / 1e9:.0f} GFLOP in {seconds:.2f} s, {flops / seconds / 1e9:.1f} GFLOP/s"
    )
    print(f"  a product of 2048² matrices: {peak / 1e9:.1f} GFLOP/s")
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    for row in rows[:14]:
        print(f"  {row.key:<44}{row.self_cpu_time_total / 1e6:8.3f} s  {row.self_cpu_time_total / 1e6 / seconds:6.1%}")
    layouts(samples)


def layouts(samples: Samples) -> None:
    """A micro-batch, forward and backward, in both memory layouts."""

    def pass_in(layout: torch.memory_format) -> Callable[[], None]:
        network = build_network("brainmrnet", 2).to(memory_format=layout)
        images = normalise(torch.from_numpy(samples.planes.take(np.arange(16)))).contiguous(memory_format=layout)
        labels = torch.from_numpy(samples.labels[:16])
        return lambda: F.cross_entropy(network(images), labels).backward()

    sides = {"NCHW": pass_in(torch.contiguous_format), "channels last": pass_in(torch.channels_last)}
    seconds = in_turns(sides, 3)
    print("16 images forward and backward: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=192, help="in an epoch")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.folder is None:
            given.folder = Path(scratch)
            for at in range(given.images):
                path = given.folder / ("yes" if at % 2 else "no") / f"{at}.jpg"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(draw_phantom(0, at, tumour=bool(at % 2), size=400)).save(path)
        files = sorted(p for p in given.folder.rglob("*") if p.is_file())[: given.images]
        if "epoch" in given.parts:
            epochs(files, given.rounds)
    if "averaging" in given.parts:
        averaging(given.rounds)
    if "scaling" in given.parts:
        scaling(given.rounds)
    if "profile" in given.parts:
        profile()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
