"""The plan of a scoring job as text."""

from brainscale.formatting import format_duration, format_nbytes, format_sections
from brainscale.scoring.duration import ScoringWorkplace
from brainscale.scoring.plan import ScoringPlan
from brainscale.scoring.result import Amount


def format_scoring_plan(plan: ScoringPlan) -> str:
    """Return the plan of a scoring job as text."""
    return format_sections(
        {"Reads": _source_lines(plan), "Uses": _model_lines(plan), "Writes": _output_lines(plan), "Takes": _times(plan)}
    )


def _source_lines(plan: ScoringPlan) -> dict[str, str]:
    lines = {"sources": ", ".join(plan.sources)}
    if plan.state != "complete":
        lines["to score"] = f"{_describe(plan.left)}; an archive or a volume counts by its size"
    if plan.files_left_out:
        lines["left out"] = f"{plan.files_left_out:,} files that are new since the job began: --update scores them too"
    return lines


def _describe(amount: Amount) -> str:
    return f"{amount.files:,} files, {format_nbytes(amount.nbytes)}, about {amount.rows:,} samples"


def _model_lines(plan: ScoringPlan) -> dict[str, str]:
    model = plan.model
    lines = {
        "model": f"{model.location}: {model.network}, weights {model.weights_sha256[:12]}, {model.image_size} × "
        f"{model.image_size} pixels, classes {', '.join(model.classes)}",
        "threshold": f"{model.threshold:.4g} ({model.threshold_source})",
    }
    return lines if plan.workplace is None else lines | {"where": _describe_workplace(plan.workplace)}


def _describe_workplace(place: ScoringWorkplace) -> str:
    processor = "a GPU" if place.on_gpu else "the CPU"
    if place.ray == "none":
        return f"here, without Ray: engine {place.engine} on {processor}"
    engines = "as many engines as there is room for" if place.workers is None else f"at most {place.workers} engine(s)"
    if place.ray == "local":
        return f"on a Ray that is started here: {engines}, {place.engine} on {processor}"
    return f"on the Ray that is connected, whose room is checked when scoring begins: {engines}"


def _output_lines(plan: ScoringPlan) -> dict[str, str]:
    done = plan.total.files - plan.left.files
    state = {
        "new": "nothing of this job is there yet",
        "begun": f"resumes, with {done:,} of {plan.total.files:,} files done",
        "complete": f"complete already, with {plan.total.rows:,} rows of {plan.total.files:,} files: nothing to score",
    }[plan.state]
    return {"scores": f"{plan.out}: {state}", **plan.others}


def _times(plan: ScoringPlan) -> dict[str, str]:
    duration = plan.duration
    if duration is None:
        return {"time": "none"}
    lines = {"measured": f"{duration.score_rate:,.1f} images a second by the engine on this machine"}
    if duration.read_rate is not None:
        lines["reading"] = f"{duration.read_rate:,.0f} samples a second by one process"
    start = "" if plan.workplace is None or plan.workplace.ray == "none" else ", and the start of Ray or its engines"
    return lines | {"in all": f"about {format_duration(duration.total_seconds)} on this machine alone{start}"}
