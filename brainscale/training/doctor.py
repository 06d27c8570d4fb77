"""Say what this machine or cluster is, whether training on it is exact, how fast it is, and what to set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainscale.config.sections import Config
from brainscale.errors import ClusterError, SampleError, first_line
from brainscale.reading.confinement import Confinement
from brainscale.reading.reader import check_confinement
from brainscale.training.exactness import Exactness, check_exactness
from brainscale.training.machine import GIB, SHARED_MEMORY, Machine, read_machine
from brainscale.training.plane_store import STORE_SHARE
from brainscale.training.speed import Speed, measure_speed
from brainscale.training.workers import describe_idle_gpus

RAY_SHARE = 0.3
"""Share of the memory that Ray takes for its object store by default."""
NODE_SECONDS = 300
"""Longest wait for the answer of a node, which may be busy."""
LOW_DISK_GIB = 10.0


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found on one machine.

    Attributes:
        machine: what it has.
        confinement: what the processes that read untrusted files can no longer do; None if they do not start, or if a
            library is missing.
        exactness: hashes of a tiny training with several numbers of workers.
        speed: images per second; None if they were not measured.
    """

    machine: Machine
    confinement: Confinement | None
    exactness: Exactness
    speed: Speed | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found, on this machine or on each kind of node of a cluster.

    Attributes:
        nodes: number of nodes that were examined; 1 without a cluster.
        busy_nodes: number of nodes that did not answer in time.
        kinds: one examination for each kind of node; the slowest of the kind.
        counts: number of nodes of each kind.
        exact: whether the number of workers changes no bit, and all nodes of a kind give the same.
        object_store_gib: size of the object stores of all nodes, or the default of a local Ray, GiB.
        planes_in_memory: number of images that training keeps decoded at the default size; more are streamed.
        advice: what to set or to change, one sentence each.
    """

    nodes: int
    busy_nodes: int = 0
    kinds: tuple[Examination, ...]
    counts: tuple[int, ...]
    exact: bool
    object_store_gib: float
    planes_in_memory: int
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def examine_machine(*, speed: bool = True) -> Examination:
    """Examine this machine, without Ray.

    Args:
        speed: whether to measure speeds too, which takes most of the time.
    """
    machine = read_machine()
    try:
        confinement = check_confinement()
    except SampleError:
        confinement = None
    exactness = check_exactness()
    return Examination(
        machine=machine,
        confinement=confinement,
        exactness=exactness,
        speed=measure_speed(machine.cpus) if speed else None,
    )


def diagnose_machine(*, speed: bool = True) -> Diagnosis:
    """Diagnose this machine, without Ray.

    Args:
        speed: whether to measure speeds too.
    """
    found = examine_machine(speed=speed)
    store = min(RAY_SHARE * found.machine.memory_gib, found.machine.shared_memory_gib or float("inf"))
    return make_diagnosis([found], store)


@ray.remote(max_retries=0)
def _examine_node(speed: bool) -> Examination:
    return examine_machine(speed=speed)


def diagnose_cluster(*, speed: bool = True) -> Diagnosis:
    """Diagnose each node of the connected cluster that has CPUs for work.

    Args:
        speed: whether to measure speeds too.

    Raises:
        ClusterError: no node answered.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    tasks = [
        _examine_node.options(
            num_cpus=0,
            num_gpus=node["Resources"].get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(speed)
        for node in nodes
    ]
    ready, waiting = ray.wait(tasks, num_returns=len(tasks), timeout=NODE_SECONDS) if tasks else ([], [])
    for task in waiting:
        ray.cancel(task, force=True)
    try:
        found: list[Examination] = ray.get(ready)
    except RayError as error:
        raise ClusterError(f"a node could not be examined ({first_line(error)}): check Ray's logs there") from error
    if not found:
        raise ClusterError(
            f"none of {len(nodes)} nodes with CPUs answered within {NODE_SECONDS} s: start nodes, or try again when "
            "other work has ended"
        )
    store = ray.cluster_resources().get("object_store_memory", 0.0) / GIB
    return make_diagnosis(found, store, busy_nodes=len(waiting))


def make_diagnosis(found: Sequence[Examination], object_store_gib: float, busy_nodes: int = 0) -> Diagnosis:
    """Compare machines, and say what to set.

    Args:
        found: one examination for each node, at least one.
        object_store_gib: size of the object stores of all nodes, GiB.
        busy_nodes: number of nodes that did not answer.
    """
    by_kind: dict[str, list[Examination]] = {}
    for one in found:
        by_kind.setdefault(_kind(one.machine), []).append(one)
    kinds = [max(same, key=_slowness) for same in by_kind.values()]
    agree = all(len({str(one.exactness.hashes) for one in same}) == 1 for same in by_kind.values())
    side = Config().data.image_size
    return Diagnosis(
        nodes=len(found),
        busy_nodes=busy_nodes,
        kinds=tuple(kinds),
        counts=tuple(map(len, by_kind.values())),
        exact=agree and all(one.exactness.is_exact for one in found),
        object_store_gib=round(object_store_gib, 1),
        planes_in_memory=int(STORE_SHARE * object_store_gib * GIB / side**2),
        advice=tuple(advise(found, kinds, agree=agree)),
    )


def _kind(machine: Machine) -> str:
    """Return what workers of one run must have in common."""
    return str((machine.cpu, machine.instructions, machine.gpus, machine.cuda, machine.python, dict(machine.versions)))


def _slowness(one: Examination) -> float:
    return -one.speed.training if one.speed else 0.0


def advise(found: Sequence[Examination], kinds: Sequence[Examination], *, agree: bool = True) -> list[str]:
    """Return what to set or to change, one sentence each, the most important first.

    Args:
        found: one examination for each node.
        kinds: one for each kind of node.
        agree: whether the nodes of each kind computed the same bits.
    """
    advice = []
    if not all(one.exactness.is_exact for one in found):
        advice.append(
            "Training is not exact here: use one number of workers for a run, and report the hashes as a bug."
        )
    elif not agree:
        advice.append("Nodes of one kind compute different bits: check their memory and their libraries.")
    if len(kinds) > 1:
        advice.append(
            f"There are {len(kinds)} kinds of nodes, but all workers of a run must be of one kind: start one kind of "
            "node for training."
        )
    for one in kinds:
        advice += [text for text in _advise_machine(one) if text not in advice]
    gpus = sum(len(one.machine.gpus) for one in found)
    if gpus:
        config = Config()
        most = min(gpus, config.train.micro_batches)
        if idle := describe_idle_gpus(gpus, 1 << (most.bit_length() - 1), config):
            advice.append(f"{idle}.")
    return advice


def list_free(confinement: Confinement) -> list[str]:
    """Return what the processes that read untrusted files can still do, in words."""
    return [name.replace("_", " ") for name, is_forbidden in confinement.to_json().items() if not is_forbidden]


def _advise_machine(one: Examination) -> list[str]:
    machine, advice = one.machine, []
    free = [] if one.confinement is None else list_free(one.confinement)
    if one.confinement is None:
        advice.append("The processes that read files do not start, or lack a library: install brainscale again there.")
    elif free:
        names = ", ".join(free)
        advice.append(
            f"The processes that read files are not kept from: {names}. Read only files that you trust, or use Linux "
            "5.13 or newer with Landlock and seccomp."
        )
    wanted = RAY_SHARE * machine.memory_gib
    if machine.shared_memory_gib < 0.95 * wanted:
        advice.append(
            f"{SHARED_MEMORY} has {machine.shared_memory_gib:g} GiB, and Ray wants {wanted:.1f} GiB for its object "
            f"store: in a container, set --shm-size={wanted:.0f}g, or resources.object_store_gib to less."
        )
    if machine.disk_gib < LOW_DISK_GIB:
        advice.append(
            f"The folder for temporary files has {machine.disk_gib:g} GiB free: Ray stops when it is full; set TMPDIR "
            "to a larger disk."
        )
    if machine.gpus and machine.bf16:
        advice.append(
            "The GPUs compute in bfloat16: `--set train.precision=bf16` and `score --precision bf16` are faster, with "
            "other results."
        )
    if not machine.gpus:
        threads = Config().train.threads
        if machine.cpus != threads:
            advice.append(
                f"A worker computes with {threads} threads, and there are {machine.cpus} CPUs: `--set train.threads="
                f"{machine.cpus}` with one worker would use them all (another result)."
            )
    if one.speed and one.speed.bottleneck.startswith("decoding"):
        advice.append(f"Add CPUs: {one.speed.bottleneck}.")
    return advice
