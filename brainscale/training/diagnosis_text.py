"""The diagnosis of a machine or a cluster as one page of text."""

from collections.abc import Iterator

from brainscale.reading.confinement import Confinement
from brainscale.training.doctor import Diagnosis, Examination, list_free

LIBRARIES = ("brainscale", "torch", "ray", "numpy", "onnxruntime")
"""Libraries on the page; --json has all."""
WIDTH = 14


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Return a diagnosis as text of at most a page."""
    return "\n".join(_lines(diagnosis))


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    for count, one in zip(diagnosis.counts, diagnosis.kinds, strict=True):
        yield "This machine" if diagnosis.nodes == 1 else f"{count} node{'' if count == 1 else 's'} of this kind"
        yield from _machine_lines(one)
        yield ""
    if diagnosis.busy_nodes:
        yield f"{diagnosis.busy_nodes} more nodes were busy and were not examined."
        yield ""
    yield "Training"
    verdict = "yes: the number of workers changes no bit" if diagnosis.exact else "NO: see the hashes above"
    yield _line("exact", verdict)
    yield _line(
        "in memory",
        f"{diagnosis.planes_in_memory:,} decoded images at the default size (object stores of "
        f"{diagnosis.object_store_gib:g} GiB); larger sets are streamed",
    )
    yield ""
    yield "What to set"
    for text in diagnosis.advice or ("Nothing: the defaults suit.",):
        yield f"  - {text}"


def _machine_lines(one: Examination) -> Iterator[str]:
    machine = one.machine
    yield _line("CPU", f"{machine.cpus} × {machine.cpu} ({machine.instructions})")
    for name, memory in zip(machine.gpus, machine.gpu_memory_gib, strict=True):
        yield _line("GPU", f"{name}, {memory:g} GiB, CUDA {machine.cuda}")
    if not machine.gpus:
        yield _line("GPU", "none")
    yield _line(
        "memory",
        f"{machine.memory_gib:g} GiB; /dev/shm {machine.shared_memory_gib:g} GiB; {machine.disk_gib:g} GiB free for "
        "temporary files",
    )
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in LIBRARIES)
    yield _line("versions", f"Python {machine.python}, {versions}")
    yield _line("decoder", _describe_confinement(one.confinement))
    yield _line("hashes", one.exactness.to_text())
    if speed := one.speed:
        yield _line("decoding", f"{speed.decoding:g} images/s on one CPU (JPEG, 512 × 512)")
        scale = f"{speed.network} at {speed.side} × {speed.side} on {speed.device}"
        yield _line("training", f"{speed.training:g} images/s, {scale}")
        yield _line("scoring", f"{speed.scoring:g} images/s, {scale}")
        yield _line("bottleneck", speed.bottleneck)


def _describe_confinement(confinement: Confinement | None) -> str:
    if confinement is None:
        return "does not start, or lacks the library of a format"
    free = list_free(confinement)
    kept = [name.replace("_", " ") for name in confinement.to_json() if name.replace("_", " ") not in free]
    if not free:
        return f"confined: no {', no '.join(kept)}"
    return f"NOT confined in: {', '.join(free)}" + (f"; confined in: {', '.join(kept)}" if kept else "")


def _line(label: str, text: str) -> str:
    return f"  {label:<{WIDTH}}{text}"
