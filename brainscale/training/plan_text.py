"""The plan of a training as text."""

from brainscale.formatting import format_duration, format_nbytes, format_sections
from brainscale.training.duration import Duration
from brainscale.training.plan import OutputPlan, Recipe, TrainingPlan
from brainscale.training.planned_data import DataPlan
from brainscale.training.workplace import Workplace


def format_training_plan(plan: TrainingPlan) -> str:
    """Return the plan of a training as text."""
    sections = {"Reads": data_lines(plan.data), "Trains": recipe_lines(plan.recipe)}
    sections["Trains"] |= {} if plan.workplace is None else {"where": describe_workplace(plan.workplace)}
    sections |= {"Writes": _output_lines(plan.output), "Takes": _duration_lines(plan)}
    return format_sections(sections)


def data_lines(data: DataPlan) -> dict[str, str]:
    """Return label → text of what is read."""
    lines = {"data": f"{data.location}: {data.files:,} files to read, {format_nbytes(data.nbytes)}"}
    if not data.is_known:
        return lines | {
            "samples": "not known before the source is indexed, which takes longer than a plan: run `brainscale index` "
            "and `split`, and plan with the manifest"
        }
    for split, counts in data.splits.items():
        unread = "; training does not read it" if split == "test" else ""
        labels = ", ".join(f"{label} {count:,}" for label, count in counts.labels.items())
        lines[split] = f"{counts.samples:,} samples in {counts.groups:,} groups: {labels}{unread}"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in data.left_out.items())
    return lines | ({"left out": reasons} if reasons else {})


def recipe_lines(recipe: Recipe) -> dict[str, str]:
    """Return label → text of what is trained."""
    initial = {"random": "random initial weights", "imagenet": "ImageNet weights, downloaded if they are not here"}
    weights = initial.get(recipe.weights, f"initial weights of {recipe.weights}")
    steps = "" if recipe.steps is None else f"{recipe.steps:,} steps each, "
    stop = "" if recipe.patience is None else f" at most (ends after {recipe.patience} without progress)"
    return {
        "network": f"{recipe.network}, about {recipe.parameters:,} parameters, {weights}",
        "images": f"{recipe.image_size} × {recipe.image_size} pixels, classes {', '.join(recipe.classes)}",
        "epochs": f"{recipe.epochs:,}{stop}, {steps}batch {recipe.batch_size}, seed {recipe.seed}",
    }


def describe_workplace(place: Workplace) -> str:
    """Return where training runs, in words."""
    if place.ray == "none":
        workers, each = ("1 worker", "") if place.workers == 1 else (f"{place.workers} workers", " each")
        return f"here, without Ray: {workers} on the CPU, {place.threads} threads{each}"
    cluster = {
        "local": "on a Ray that is started here",
        "connected": "on the Ray that is connected, whose room is checked when training begins",
    }[place.ray]
    workers = "one worker for each GPU or node" if place.workers == "auto" else f"{place.workers} worker(s)"
    device = {"cpu": "on CPUs", "cuda": "on GPUs", "auto": "on GPUs if there are enough"}[place.device]
    return f"{cluster}: {workers} {device}, {place.threads} threads each"


def _output_lines(output: OutputPlan) -> dict[str, str]:
    states = {
        "new": "nothing is there yet",
        "begun": f"resumes after epoch {output.epochs_done}, step {output.steps_done} of the next epoch",
        "complete": f"complete already, after {output.epochs_done} epochs: nothing to do",
    }
    lines = {"run": f"{output.run}: {states[output.state]}"}
    return lines if output.state == "complete" else lines | size_lines(output)


def size_lines(output: OutputPlan, models: int = 1) -> dict[str, str]:
    """Return label → text of what runs write.

    Args:
        output: one of them.
        models: number of runs.
    """
    sizes = (output.checkpoint_nbytes * models, output.model_nbytes * models)
    checkpoints, bundle = map(format_nbytes, sizes)
    return {"size": f"checkpoints up to {checkpoints}, model {bundle}; tables and logs besides"}


def _duration_lines(plan: TrainingPlan) -> dict[str, str]:
    if plan.duration is None:
        complete = plan.output.state == "complete"
        return {"time": "none" if complete else "not known: the GPU that is asked for is not on this machine"}
    return duration_lines(plan.duration, at_most=plan.recipe.patience is not None)


def duration_lines(duration: Duration, *, at_most: bool, runs: int = 1) -> dict[str, str]:
    """Return label → text of how long runs take.

    Args:
        duration: what was measured and extrapolated.
        at_most: whether training may end before its last epoch.
        runs: number of runs that are left.
    """
    measured = f"{duration.train_rate:,.1f} images a second in training, {duration.validation_rate:,.1f} in validation"
    lines = {
        "measured": f"{measured}; one worker on the {duration.device.upper().replace('CUDA', 'GPU')} of this machine"
    }
    if duration.read_rate is not None:
        lines["reading"] = f"{duration.read_rate:,.0f} samples a second by one process"
    if duration.total_seconds is None or duration.epoch_seconds is None or duration.read_seconds is None:
        return lines
    limit = " at most; early stopping may end it before" if at_most else ""
    each = "" if runs == 1 else f" for {runs} runs one after another"
    return lines | {
        "reading all": f"about {format_duration(duration.read_seconds)}",
        "an epoch": f"about {format_duration(duration.epoch_seconds)}",
        "in all": f"about {format_duration(duration.total_seconds)}{each}{limit}",
        "besides": "the start, checkpoints, and the export of the model",
    }
