"""Classifiers that tell brain MRI scans with a tumour from scans without: training, evaluation and bulk scoring.

`import brainscale as bs` loads neither torch nor Ray; each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from brainscale.version import __version__

if TYPE_CHECKING:
    from brainscale.api import (
        Model,
        compare,
        cross_validate,
        ensemble,
        evaluate,
        index,
        load_config,
        load_manifest,
        load_model,
        overlap,
        read,
        score,
        session,
        split,
        summary,
        train,
    )
    from brainscale.errors import BrainscaleError
    from brainscale.stats.metrics import compute_metrics

__all__ = [
    "BrainscaleError",
    "Model",
    "__version__",
    "compare",
    "compute_metrics",
    "cross_validate",
    "ensemble",
    "evaluate",
    "index",
    "load_config",
    "load_manifest",
    "load_model",
    "overlap",
    "read",
    "score",
    "session",
    "split",
    "summary",
    "train",
]

_HOMES = {"BrainscaleError": "brainscale.errors", "compute_metrics": "brainscale.stats.metrics"}
"""Modules of names that are not in `brainscale.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'brainscale' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "brainscale.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
