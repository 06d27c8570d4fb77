"""The exact step and the loop around it, without Ray: same bits on any number of workers, from any position."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from brainscale.config.files import load_config
from brainscale.config.sections import Config, TrainConfig
from brainscale.errors import TrainError
from brainscale.models.normalisation import normalise
from brainscale.models.registry import build_network
from brainscale.seeds import derive, make_deterministic
from brainscale.storage.workspace import Workspace
from brainscale.training import checkpoints, exact_sum, trace, worker
from brainscale.training.augment import draw_mixture
from brainscale.training.checkpoints import hash_weights
from brainscale.training.environment import describe_arithmetic
from brainscale.training.history import list_hardware, read_history
from brainscale.training.notices import read_notices
from brainscale.training.step import Learner, Samples, choose_memory_format, learning_rate, make_optimizer
from brainscale.training.worker import TrainingLoop
from brainscale.training.workers import fix_memory_format

SMALL = [
    *("data.image_size=64", "train.batch_size=8", "train.micro_batch=2", "train.epochs=2"),
    *("train.threads=1", "train.shuffle_window=16"),
]
PRECISE = ["train.norm_statistics=precise"]  # after each epoch, as any may be kept, and without a moving average
REGULARISED = [
    *("train.ema=0.9", "train.keep=last", "train.label_smoothing=0.1", "train.decay_biases=false"),
    *PRECISE,
    *("augment.mixup=0.4", "augment.gamma=0.3", "augment.elastic=0.04", "augment.bias_field=0.3"),
]
CPU = torch.device("cpu")


class Memory:
    """Planes in this process's memory."""

    def __init__(self, count: int) -> None:
        self.planes = np.random.default_rng(1).integers(0, 256, (count, 64, 64), np.uint8)
        self.held = np.arange(count)

    def take(self, positions: np.ndarray) -> np.ndarray:
        assert np.isin(positions, self.held).all()
        return self.planes[positions]

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        self.held = positions


def samples(count: int) -> Samples:
    labels = np.arange(count) % 2
    return Samples(sample_ids=[f"s{i:02d}" for i in range(count)], labels=labels, planes=Memory(count))


def learner(config: Config) -> Learner:
    network = build_network(config.model.name, 2, None, derive(config.train.seed, "weights"))
    return Learner(network, config.train, config.augment, CPU)


def loop(config: Config, run: Path) -> TrainingLoop:
    make_deterministic(config.train.threads)
    run.mkdir(exist_ok=True)
    return TrainingLoop(
        config, Workspace(run), learner(config), samples(19), samples(5), lambda number, images, seconds: None
    )


def left_behind(run: Path) -> tuple[object, ...]:
    """All of a run that must not depend on how it came about."""
    steps = [pq.read_table(p) for p in sorted((run / "steps").iterdir())]
    return pq.read_table(run / "history.parquet"), *steps


def _in_worker(rank: int, world: int, folder: str, settings: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    vector = torch.randn(11, generator=torch.Generator().manual_seed(rank)) * 10.0**rank
    vectors = [torch.randn(11, generator=torch.Generator().manual_seed(r)) * 10.0**r for r in range(world)]
    assert torch.equal(exact_sum.sum_over_workers(vector), exact_sum.tree_sum(vectors))
    assert exact_sum.is_equal_on_all_workers(torch.tensor([5, -7]))
    assert not exact_sum.is_equal_on_all_workers(torch.tensor([5, rank]))
    loop(load_config(None, settings), Path(folder) / "run").run()
    dist.destroy_process_group()


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train_untouched(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains on one worker that nobody kills, once for the same settings, and returns the run."""

    @cache
    def train(*settings: str) -> Path:
        run = tmp_path_factory.mktemp("untouched") / "run"
        loop(load_config(None, [*SMALL, *settings]), run).run()
        return run

    return train


@pytest.fixture(scope="module")
def untouched(train_untouched: Train) -> Path:
    return train_untouched()


@pytest.fixture(scope="module")
def regularised(train_untouched: Train) -> Path:
    return train_untouched(*REGULARISED)


@pytest.mark.parametrize(("world", "settings"), [(2, []), (4, []), (2, REGULARISED), (2, PRECISE)])
def test_the_worker_count_changes_no_bit(
    world: int, settings: list[str], train_untouched: Train, tmp_path: Path
) -> None:
    mp.set_forkserver_preload([worker.__name__])  # imported once for all of them
    arguments = world, str(tmp_path), [*SMALL, *settings]
    mp.start_processes(_in_worker, arguments, nprocs=world, start_method="forkserver")
    assert left_behind(tmp_path / "run") == left_behind(train_untouched(*settings))


def test_the_worker_count_changes_no_bit_of_depthwise_convolutions(tmp_path: Path) -> None:
    settings = [*SMALL, "model.name=efficientnet_lite0", "train.epochs=1", "train.norm_statistics=precise"]
    loop(load_config(None, settings), tmp_path / "alone").run()
    mp.start_processes(_in_worker, (2, str(tmp_path), settings), nprocs=2, start_method="forkserver")
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "alone")


class KilledError(Exception):
    """Stands for a process that ends."""


@pytest.mark.parametrize(("every", "settings"), [(None, []), (1, []), (2, []), (1, REGULARISED), (1, PRECISE)])
def test_a_kill_after_any_step_changes_no_bit(
    every: int | None, settings: list[str], train_untouched: Train, tmp_path: Path
) -> None:
    """One run that is cut after 1 more step each time, with checkpoints every so many steps."""
    config = load_config(None, [*SMALL, *settings, f"resources.checkpoint_steps={'null' if every is None else every}"])
    run = tmp_path / "run"
    for kill_at in (2, 3, 5, 1, 99):  # steps that a process lives to take
        cut_short = loop(config, run)
        step, taken = cut_short.learner.step, 0

        def until_killed(*args: object, step: object = step, kill_at: int = kill_at) -> object:
            nonlocal taken
            taken += 1
            if taken > kill_at:
                raise KilledError
            return step(*args)  # type: ignore[operator]

        cut_short.learner.step = until_killed  # type: ignore[assignment, method-assign]
        try:
            cut_short.run()
        except KilledError:
            assert kill_at < 99
    assert left_behind(run) == left_behind(train_untouched(*settings))
    assert bool(read_notices(run)) == (every is not None or kill_at == 99)


def test_the_trace_is_cut_into_shards_that_a_kill_does_not_change(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of two steps: no more than two are in memory, and a resumed run writes the same ones."""
    for module in (trace, checkpoints):
        monkeypatch.setattr(module, "SHARD", 2)
    config, most = load_config(None, [*SMALL, "resources.checkpoint_steps=1"]), 0
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    loop(config, whole).run()
    for kill_at in (1, 2, 1, 99):
        part = loop(config, cut)
        step, taken = part.learner.step, 0

        def until_killed(
            *args: object, part: TrainingLoop = part, step: object = step, kill_at: int = kill_at
        ) -> object:
            nonlocal taken, most
            taken, most = taken + 1, max(most, len(part.progress.steps))
            if taken > kill_at:
                raise KilledError
            return step(*args)  # type: ignore[operator]

        part.learner.step = until_killed  # type: ignore[assignment, method-assign]
        with suppress(KilledError):
            part.run()
    assert most == 2
    names = [f"epoch-000{epoch}-00000{shard}.parquet" for epoch in (1, 2) for shard in (0, 1)]
    assert sorted(path.name for path in (cut / "steps").iterdir()) == names
    assert left_behind(cut) == left_behind(whole)
    assert pq.read_table(cut / "history.parquet") == pq.read_table(untouched / "history.parquet")
    assert list(trace.read_steps(cut)) == list(trace.read_steps(untouched))


def test_a_run_is_resumed_on_other_hardware_only_if_that_is_allowed(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after one step, then continued by a worker on another device."""
    run, first = tmp_path / "run", loop(load_config(None, [*SMALL, "resources.checkpoint_steps=1"]), tmp_path / "run")
    save, here = first._save_checkpoint, first.arithmetic

    def save_and_end() -> None:
        save()
        raise KilledError

    first._save_checkpoint = save_and_end  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        first.run()
    there = replace(here, device="cuda", processor="H100", instructions="sm_90")
    monkeypatch.setattr(worker, "describe_arithmetic", lambda device: there)
    with pytest.raises(TrainError) as caught:
        loop(load_config(None, SMALL), run).run()
    assert str(caught.value) == (
        f"{run} was trained on other hardware or library versions (device is cpu there, cuda here): resume it there, "
        "or add --allow-other-hardware, which gives other bits and marks the run"
    )
    loop(load_config(None, [*SMALL, "resources.allow_other_hardware=true"]), run).run()
    rows = read_history(run)
    assert [row["hardware"] for row in rows] == [f"{here.to_text()} then {there.to_text()}", there.to_text()]
    assert list_hardware(rows) == [here.to_text(), there.to_text()]
    assert list_hardware(read_history(untouched)) == [here.to_text()]
    assert any("device is cpu there, cuda here): the bits differ from here on" in t for t in read_notices(run).values())


def test_a_difference_of_arithmetic_is_named() -> None:
    one = describe_arithmetic(CPU)
    assert one.difference(describe_arithmetic(CPU)) is None
    assert one.fingerprint == describe_arithmetic(CPU).fingerprint
    for change, text in (
        ({"threads": 99}, f"threads is {one.threads} there, 99 here"),
        ({"instructions": "AVX1"}, f"instructions is {one.instructions} there, AVX1 here"),
        ({"versions": {**one.versions, "torch": "1.0"}}, f"torch is {torch.__version__} there, 1.0 here"),
        ({"versions": {**one.versions, "cuda": "13.0"}}, "cuda is missing there, 13.0 here"),
    ):
        other = replace(one, **change)  # type: ignore[arg-type]
        assert one.difference(other) == text
        assert other.fingerprint != one.fingerprint


def test_checkpoints_come_by_steps_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(*settings: str) -> set[str]:
        seen: set[str] = set()
        monkeypatch.setattr(
            worker,
            "save_checkpoint",
            lambda folder, network, optimizer, progress, average: seen.add(Path(progress.checkpoint_name).stem),
        )
        loop(load_config(None, [*SMALL, "train.epochs=1", *settings]), tmp_path / "-".join(settings)).run()
        return seen

    assert kept("resources.checkpoint_steps=2") == {"last-0000-000002", "last-0001-000000"}
    assert kept("resources.checkpoint_seconds=1e-6") == {"last-0000-000001", "last-0000-000002", "last-0001-000000"}
    assert kept("resources.checkpoint_seconds=1e6") == {"last-0001-000000"}


def test_a_damaged_checkpoint_is_named_and_changes_no_bit(untouched: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = load_config(None, [*SMALL, "resources.checkpoint_steps=1"])
    loop(config, run).run()
    newest = max((run / "checkpoints").glob("last-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    loop(config, run).run()
    assert left_behind(run) == left_behind(untouched)
    damaged, going_on = read_notices(run).values()
    assert damaged.startswith(f"checkpoint {newest.name} cannot be read")
    assert going_on == "resuming after epoch 1, step 2 of the next epoch"


def test_a_loss_that_is_not_finite_names_step_samples_and_state(tmp_path: Path) -> None:
    config = load_config(None, [*SMALL, "resources.checkpoint_steps=1"])
    broken, count = loop(config, tmp_path / "run"), 0

    def poison(network: nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return logits * torch.tensor([[1.0], [torch.nan]]) if count == 6 else logits

    broken.learner.network.register_forward_hook(poison)
    with pytest.raises(TrainError) as caught:
        broken.run()
    text = str(caught.value)
    assert text.startswith("the loss is not finite at epoch 1, step 2, for 's")
    assert "and" not in text.split("for ")[1].split(":")[0]  # one sample
    assert text.endswith("(the last checkpoint is checkpoints/last-0000-000001.safetensors)")


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    one = learner(load_config(None, SMALL))
    before = hash_weights(one.network.state_dict())
    next(iter(one.network.parameters())).register_hook(lambda g: g * torch.inf)
    with pytest.raises(TrainError, match=r"a gradient is not finite at epoch 3, step 5"):
        one.step(samples(8), [np.arange(4), np.arange(4, 8)], 3, 4, 0.1)
    assert hash_weights(one.network.state_dict()) == before


def test_bf16_learns_too_and_keeps_float32_weights() -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        one = learner(load_config(None, [*SMALL, f"train.precision={precision}"]))
        losses[precision] = one.step(samples(8), [np.arange(4), np.arange(4, 8)], 1, 0, 1e-3).losses
        assert {p.dtype for p in one.network.parameters()} == {torch.float32}
    assert not np.array_equal(losses["bf16"], losses["float32"])
    assert losses["bf16"] == pytest.approx(losses["float32"], abs=0.1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_have_the_strides_of_their_parameters(layout: str) -> None:
    """Otherwise an optimiser on a GPU computes them one by one."""
    one = learner(load_config(None, [*SMALL, f"train.memory_format={layout}"]))
    one.step(samples(8), [np.arange(4), np.arange(4, 8)], 1, 0, 1e-3)
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in one.network.parameters())
    shuffled = [p for p in one.network.parameters() if p.dim() == 4 and not p.is_contiguous()]
    assert bool(shuffled) == (layout == "channels_last")


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_the_optimiser_gives_the_bits_of_torch_s_own(kind: str) -> None:
    """All parameters in one operation, and one parameter after the other."""
    settings = TrainConfig.model_validate({"optimizer": kind})
    networks = [build_network("brainmrnet", 2, seed=1) for _ in range(2)]
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "foreach": False}
    optimizers = [make_optimizer(networks[0], settings), plain(networks[1].parameters(), **options)]
    for step in range(3):
        for network, optimizer in zip(networks, optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    assert hash_weights(networks[0].state_dict()) == hash_weights(networks[1].state_dict())


def test_the_memory_format_is_fixed_when_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config(None, []).train
    for capability, expected in (("AVX2", "contiguous"), ("AVX512", "channels_last")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda text=capability: text)
        assert choose_memory_format(settings, on_gpu=False) == expected
        assert choose_memory_format(settings, on_gpu=True) == "channels_last"
        started = load_config(None, ["train.memory_format=contiguous", "resources.device=cpu"])
        assert fix_memory_format(load_config(None, []), started, on_gpu=False).fingerprint == started.fingerprint
        fixed = fix_memory_format(load_config(None, []), None, on_gpu=False)
        assert fixed.train.memory_format == expected
        given = load_config(None, ["train.memory_format=contiguous"])
        assert fix_memory_format(given, fixed, on_gpu=False) is given


def test_validation_is_a_sum_over_samples() -> None:
    one, all_of_them = learner(load_config(None, SMALL)), samples(19)
    outcome = one.validate(all_of_them)
    all_of_them.planes.hold(np.arange(19))
    planes, labels = torch.from_numpy(all_of_them.planes.take(np.arange(19))), torch.from_numpy(all_of_them.labels)
    with torch.no_grad():
        logits = one.network.eval()(normalise(planes))
    assert outcome.losses == pytest.approx(F.cross_entropy(logits, labels, reduction="none").numpy(), abs=1e-6)
    assert outcome.correct == int((logits.argmax(1) == labels).sum())


def test_a_run_that_reached_its_end_is_not_trained_further(untouched: Path, tmp_path: Path) -> None:
    """Though its history lacks the last epoch, as after a kill between checkpoint and history."""
    run = tmp_path / "run"
    shutil.copytree(untouched, run)
    pq.write_table(pq.read_table(run / "history.parquet").slice(0, 1), run / "history.parquet")
    again = loop(load_config(None, SMALL), run)
    again.learner.step = None  # type: ignore[assignment, method-assign]
    again.run()
    assert left_behind(run) == left_behind(untouched)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    settings = TrainConfig(epochs=20, warmup_epochs=2.0, warmup_start=1e-5, learning_rate=1e-2)
    rates = [learning_rate(step, 10, settings) for step in range(200)]
    assert rates[0] == 1e-5
    assert np.argmax(rates) == 20
    assert rates[20] == pytest.approx(1e-2)
    assert all(a < b for a, b in zip(rates[:20], rates[1:21], strict=True))
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False))
    assert rates[-1] < 1e-5
    short = TrainConfig(epochs=3, warmup_epochs=5.0)
    assert max(learning_rate(s, 10, short) for s in range(30)) == pytest.approx(1e-3, rel=0.01)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(regularised: Path) -> None:
    """By its definition, step by step: the first step copies, each later one moves by a tenth of the way."""
    one = learner(load_config(None, [*SMALL, *REGULARISED]))
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        one.step(samples(19), [np.arange(4 * step, 4 * step + 2), np.arange(4 * step + 2, 4 * step + 4)], 1, step, 1e-3)
        for name, value in one.network.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * value if step else value.clone()
    kept = one.evaluated.state_dict()
    assert all(torch.allclose(kept[name], value, atol=1e-6) for name, value in expected.items())
    assert not torch.equal(kept["head.classifier.weight"], one.network.state_dict()["head.classifier.weight"])
    rows = read_history(regularised)
    assert [row["best"] for row in rows] == [False, True]
    assert [path.name for path in (regularised / "checkpoints").glob("best-*")] == ["best-0002.safetensors"]
    best = checkpoints.load_best_weights(regularised / "checkpoints", checkpoints.Progress(rows))
    assert hash_weights(best) == rows[-1]["weights_sha256"]


def test_precise_statistics_are_those_of_the_kept_weights_on_the_training_images() -> None:
    still = {"flip": False, "rotate": 0.0, "scale": 0.0, "shift": 0.0, "intensity": 0.0}
    config = load_config(None, [*SMALL, *(f"augment.{key}={value}".lower() for key, value in still.items())])
    one, data = learner(config), samples(8)
    before = {name: tensor.clone() for name, tensor in one.network.state_dict().items()}
    one.measure_norm_statistics(data, 1)
    planes = normalise(torch.from_numpy(data.planes.take(np.arange(8))))
    first = next(layer for layer in one.network.modules() if isinstance(layer, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        one.network.eval()(planes)
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)))
    changed = {name for name, tensor in one.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.endswith(("running_mean", "running_var"))}


def test_statistics_that_are_not_finite_are_refused() -> None:
    one = learner(load_config(None, SMALL))
    with torch.no_grad():
        next(one.network.parameters()).fill_(1e30)
    with pytest.raises(TrainError, match="a statistic of batch norm is not finite"):
        one.measure_norm_statistics(samples(8), 1)


def test_statistics_that_are_not_finite_end_a_run_with_their_epoch_and_state(tmp_path: Path) -> None:
    training = loop(load_config(None, [*SMALL, *PRECISE]), tmp_path / "run")
    measure = training.learner.measure_norm_statistics

    def spoil(data: Samples, epoch: int) -> None:
        if epoch == 2:
            with torch.no_grad():
                next(training.learner.network.parameters()).fill_(1e30)
        measure(data, epoch)

    training.learner.measure_norm_statistics = spoil  # type: ignore[method-assign]
    with pytest.raises(
        TrainError, match=r"not finite: .* \(after epoch 2; the last checkpoint is checkpoints/last-0001-"
    ):
        training.run()


def test_no_patience_ends_a_run_that_keeps_its_last_weights(tmp_path: Path) -> None:
    impatient = [*SMALL, "train.epochs=3", "train.patience=1", "train.min_gain=100"]
    loop(load_config(None, impatient), tmp_path / "best").run()
    loop(load_config(None, [*impatient, "train.keep=last"]), tmp_path / "last").run()
    assert [len(read_history(tmp_path / name)) for name in ("best", "last")] == [2, 3]


def test_biases_and_batch_norm_decay_only_if_asked() -> None:
    network = build_network("brainmrnet", 2, seed=1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    settings = TrainConfig(decay_biases=False, weight_decay=0.5, learning_rate=0.1)
    optimizer = make_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in network.named_parameters():
        assert torch.allclose(value, before[name] * (0.95 if value.dim() > 1 else 1.0)), name


def test_mixup_blends_planes_and_losses() -> None:
    """The gradient is that of the loss by hand, with the draw of the micro-batch."""
    config = load_config(
        None,
        [
            *(*SMALL, "augment.mixup=0.4", "augment.flip=false", "augment.rotate=0", "augment.scale=0"),
            *("augment.shift=0", "augment.intensity=0", "train.label_smoothing=0.2"),
        ],
    )
    one, data, positions = learner(config), samples(4), np.arange(4)
    one.network.eval()  # neither dropout nor batch statistics
    one.network.train = lambda mode=True: one.network  # type: ignore[method-assign]
    partners, share = draw_mixture(4, derive(config.train.seed, "mixup", 1, 0, 0), 0.4)
    planes, labels = torch.from_numpy(data.planes.take(positions)).float(), torch.from_numpy(data.labels)
    logits = one.network(normalise(share * planes + (1 - share) * planes[partners]))
    losses = [
        F.cross_entropy(logits, goal, reduction="none", label_smoothing=0.2) for goal in (labels, labels[partners])
    ]
    outcome = one.step(data, [positions], 1, 0, 1e-3)
    expected = share * losses[0] + (1 - share) * losses[1]
    assert 0.5 <= share < 1
    assert np.allclose(outcome.losses, expected.detach().numpy(), atol=1e-4)
