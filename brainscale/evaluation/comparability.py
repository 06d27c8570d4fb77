"""Whether evaluations can be compared: their metrics mean the same only on the same samples, with the same classes."""

from collections.abc import Mapping

from brainscale.errors import ManifestError

Facts = Mapping[str, str]
"""What an evaluation says of itself: the metadata of its metrics."""
BASES = {"samples_sha256": "different samples", "classes": "different classes", "unit": "different units"}
"""Facts that evaluations must share to be compared, and what to say where they do not."""


def describe_incomparable(evaluations: Mapping[str, Facts]) -> str | None:
    """Return in one sentence why evaluations cannot be compared, or None where they can.

    Args:
        evaluations: run → facts.
    """
    for fact, difference in BASES.items():
        values = {run: facts.get(fact) for run, facts in evaluations.items()}
        first = next(iter(values), None)
        for run, value in values.items():
            if value != values[first or run]:
                return f"Not comparable: {first} and {run} were evaluated with {difference}."
    return None


def require_comparable(evaluations: Mapping[str, Facts], *, force: bool) -> str | None:
    """Return why evaluations cannot be compared, which was allowed, or None where they can.

    Args:
        evaluations: run → facts.
        force: whether to allow it.

    Raises:
        ManifestError: they cannot, and that is not allowed.
    """
    reason = describe_incomparable(evaluations)
    if reason is None or force:
        return reason
    raise ManifestError(
        f"{reason.removesuffix('.')}: evaluate all of them with the same --data and --split, each into a new --out, "
        "and compare these folders, or allow it with --force, which marks every output"
    )
