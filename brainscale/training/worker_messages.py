"""What a driver and its worker processes say to each other, as lines of JSON: nothing is unpickled."""

import json
import traceback
from typing import Any, cast

import numpy as np

from brainscale import errors
from brainscale.config.files import parse_config
from brainscale.errors import BrainscaleError, first_line
from brainscale.training.exact_sum import Group, PeerError
from brainscale.training.pace import StepReport
from brainscale.training.shared_planes import SharedPlanes
from brainscale.training.worker import SplitSamples, TrainingJob

MENDABLE = (PeerError, OSError, RuntimeError)
"""Errors that keep their class, because new workers may succeed after them."""


class WorkerError(Exception):
    """An error of a worker that new workers would meet again."""


def encode_job(job: TrainingJob, group: Group) -> bytes:
    """Return a job, with planes in memory that both processes share, and the worker's group as one line."""
    samples = {
        split: {
            "sample_ids": list(each.sample_ids),
            "labels": list(each.labels),
            "planes": vars(each.planes) | {"rows": cast("SharedPlanes", each.planes).rows.tolist()},
        }
        for split, each in job.samples.items()
    }
    facts = {"config": job.config.model_dump(mode="json"), "run": job.run, "samples": samples, "group": vars(group)}
    return json.dumps(facts).encode() + b"\n"


def decode_job(line: bytes) -> tuple[TrainingJob, Group]:
    """Return the job and the group of a line that `encode_job` wrote."""
    facts: dict[str, Any] = json.loads(line)
    samples = {
        split: SplitSamples(
            sample_ids=each["sample_ids"],
            labels=each["labels"],
            planes=SharedPlanes(**each["planes"] | {"rows": np.array(each["planes"]["rows"], np.int64)}),
        )
        for split, each in facts["samples"].items()
    }
    job = TrainingJob(config=parse_config(facts["config"]), run=facts["run"], samples=samples)
    return job, Group(**facts["group"])


def encode_step(report: StepReport) -> bytes:
    """Return how far the worker is, as one line."""
    return json.dumps({"step_report": report.to_json()}).encode() + b"\n"


def decode_step(line: bytes) -> StepReport | None:
    """Return the report of a line that `encode_step` wrote, or None for the line of an error."""
    facts: dict[str, Any] | None = json.loads(line)
    report = None if facts is None else facts.get("step_report")
    return None if report is None else StepReport(**report)


def encode_error(error: BaseException | None) -> bytes:
    """Return an error, or None, as one line."""
    if error is None:
        return b"null\n"
    facts: dict[str, Any] = {"name": type(error).__name__, "arguments": error.args, "traceback": None}
    if not isinstance(error, BrainscaleError):
        kind = next((kind.__name__ for kind in MENDABLE if isinstance(error, kind)), "")
        text = first_line(error) if kind else f"{type(error).__name__}: {first_line(error)}"
        facts = {"name": kind, "arguments": [text], "traceback": "".join(traceback.format_exception(error))}
    return json.dumps(facts).encode() + b"\n"


def decode_error(line: bytes) -> BaseException | None:
    """Return the error of a line that `encode_error` wrote, or None; one of another class is a WorkerError."""
    facts: dict[str, Any] | None = json.loads(line)
    if facts is None:
        return None
    classes: dict[str, type[Exception]] = {kind.__name__: kind for kind in MENDABLE}
    kind: type[Exception] = classes.get(facts["name"], getattr(errors, facts["name"], WorkerError))
    error: Exception = kind(*facts["arguments"])
    if facts["traceback"]:
        error.add_note(facts["traceback"])
    return error
