"""What a machine is, whether training there is exact, and what to set; the exactness is checked on real processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config import environment
from brainscale.config.environment import count_cpus
from brainscale.reading.confinement import Confinement
from brainscale.training import exactness, machine
from brainscale.training.diagnosis_text import format_diagnosis
from brainscale.training.doctor import Examination, make_diagnosis
from brainscale.training.exactness import Exactness, check_exactness
from brainscale.training.machine import Machine, read_machine, read_memory
from brainscale.training.speed import Speed
from tests.support.runs import Invoke, succeed

HASHES = {"CPU, 1 worker": "a" * 64, "CPU, 2 workers": "a" * 64}
MACHINE = Machine(
    cpu="AMD EPYC",
    instructions="AVX512",
    cpus=2,
    memory_gib=16.0,
    shared_memory_gib=16.0,
    disk_gib=100.0,
    python="3.11.7",
    versions={"brainscale": "0.1.0", "torch": "2.9.0", "ray": "2.60.0", "numpy": "2.3.0", "onnxruntime": "1.23.0"},
)
CONFINED = Confinement(files=True, network=True, processes=True, core_dumps=True)
SPEED = Speed(network="brainmrnet", side=224, device="CPU", cpus=2, decoding=200.0, training=3.0, scoring=60.0)
GOOD = Examination(machine=MACHINE, confinement=CONFINED, exactness=Exactness(hashes=HASHES), speed=SPEED)


def advice(*found: Examination) -> str:
    return " ".join(make_diagnosis(found, 4.0).advice)


def test_the_command_examines_this_machine(invoke: Invoke) -> None:
    """With real processes, and without Ray."""
    result = json.loads(succeed(invoke("doctor", "--no-speed", "--json")).stdout)
    (found,) = result["kinds"]
    assert result["exact"]
    assert {"CPU, 1 worker", "CPU, 2 workers", "CPU, 4 workers"} <= found["exactness"]["hashes"].keys()
    assert len({value for name, value in found["exactness"]["hashes"].items() if name.startswith("CPU")}) == 1
    assert found["confinement"].keys() == {"files", "network", "processes", "core_dumps"}
    assert found["speed"] is None
    assert not ray.is_initialized()


def test_a_difference_of_one_worker_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose seeds depend on the rank, as a plain data-parallel step's do."""
    monkeypatch.setattr(exactness, "_run_group", lambda device, worlds: {f"CPU, {w} workers": str(w) for w in worlds})
    found = check_exactness()
    assert not found.is_exact
    assert found.to_text().startswith("DIFFERENT BITS: CPU, 1 workers 1; ")


def test_cpus_and_gpus_need_not_agree() -> None:
    assert Exactness(hashes={**HASHES, "NVIDIA H100, 1 worker": "b", "NVIDIA H100, 2 workers": "b"}).is_exact
    assert not Exactness(hashes={**HASHES, "NVIDIA H100, number 0, alone": "b", "NVIDIA H100, 2 workers": "c"}).is_exact


def test_a_machine_that_suits_needs_no_advice() -> None:
    diagnosis = make_diagnosis([GOOD], 4.0)
    assert (diagnosis.exact, diagnosis.advice) == (True, ())
    assert diagnosis.planes_in_memory == 2 * 2**30 // 224**2
    text = format_diagnosis(diagnosis)
    assert "Nothing: the defaults suit." in text
    assert "confined: no files, no network, no processes, no core dumps" in text
    assert len(text.splitlines()) < 40
    assert json.loads(json.dumps(diagnosis.to_json()))["kinds"][0]["machine"]["cpu"] == "AMD EPYC"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"machine": replace(MACHINE, shared_memory_gib=0.1)}, " has 0.1 GiB, and Ray wants 4.8 GiB"),
        ({"machine": replace(MACHINE, disk_gib=1.5)}, "temporary files has 1.5 GiB free"),
        ({"machine": replace(MACHINE, cpus=8)}, "`--set train.threads=8`"),
        ({"confinement": None}, "processes that read files do not start"),
        ({"confinement": replace(CONFINED, network=False, core_dumps=False)}, "not kept from: network, core dumps."),
        ({"exactness": Exactness(hashes={"CPU, 1 worker": "a", "CPU, 2 workers": "b"})}, "Training is not exact here"),
        (
            {"speed": replace(SPEED, decoding=10.0)},
            "Add CPUs: decoding limits scoring: 6 CPUs would keep up, there are 2",
        ),
        (
            {
                "machine": replace(
                    MACHINE, gpus=("NVIDIA H100",) * 8, gpu_memory_gib=(80.0,) * 8, cuda="12.8", bf16=True
                )
            },
            "4 of 8 GPUs stay idle",
        ),
    ],
)
def test_what_does_not_suit_is_named(change: dict[str, object], text: str) -> None:
    assert text in advice(replace(GOOD, **change))  # type: ignore[arg-type]


def test_nodes_are_compared() -> None:
    older = replace(GOOD, machine=replace(MACHINE, cpu="Intel Xeon"))
    assert "There are 2 kinds of nodes" in advice(GOOD, GOOD, older)
    other_bits = replace(GOOD, exactness=Exactness(hashes=dict.fromkeys(HASHES, "b")))
    assert "Nodes of one kind compute different bits" in advice(GOOD, other_bits)
    diagnosis = make_diagnosis([GOOD, other_bits, older], 4.0, busy_nodes=2)
    assert (diagnosis.nodes, diagnosis.counts, diagnosis.exact) == (3, (2, 1), False)
    text = format_diagnosis(diagnosis)
    assert "2 nodes of this kind" in text
    assert "2 more nodes were busy" in text
    assert "NO: see the hashes above" in text


def test_the_slowest_node_of_a_kind_is_shown() -> None:
    slow = replace(GOOD, speed=replace(SPEED, training=0.5))
    assert [one.speed for one in make_diagnosis([GOOD, slow, GOOD], 4.0).kinds] == [slow.speed]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_limits_of_a_container_count(quota: int, period: int) -> None:
    cpus = count_cpus(Path("/nowhere"))
    files = {"cpu.max": f"{quota} {period}\n", "memory.max": "1000000\n"}
    reading = pytest.MonkeyPatch()
    with reading.context() as patch:
        for module in (environment, machine):
            patch.setattr(module, "read_limit", lambda path: files[path.name].strip())
        assert count_cpus() == min(cpus, max(1, quota // period))
        assert read_memory() == 1_000_000
        files |= {"cpu.max": "max 100000", "memory.max": "max"}
        assert count_cpus() == cpus
        assert read_memory() > 1_000_000


def test_this_machine_has_no_name() -> None:
    import platform

    found = read_machine()
    assert found.cpus >= 1
    assert found.memory_gib > 0
    assert platform.node() not in json.dumps(make_diagnosis([replace(GOOD, machine=found)], 1.0).to_json())
