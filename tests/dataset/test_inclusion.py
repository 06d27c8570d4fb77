"""Which samples training leaves out, and that it says so."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.data_sections import DataConfig
from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.dataset.inclusion import clear_left_out, describe_left_out, describe_measured, mark_left_out
from brainscale.dataset.manifest import count_values
from brainscale.dataset.splits import assign_splits
from brainscale.dataset.summary import summarise
from brainscale.errors import ManifestError, UsageError
from brainscale.schema import MANIFEST
from brainscale.training.samples import count_left_out, prepare_manifest

KINDS: list[dict[str, object]] = [
    {},
    {"modality": "MR", "image_kind": "original", "orientation": "axial", "burned_in": False},
    {"modality": "MR", "image_kind": "derived"},
    {"modality": "MR", "image_kind": "localizer", "orientation": "sagittal"},
    {"modality": "OT", "image_kind": "secondary_capture", "burned_in": True},
    {"modality": "MR", "burned_in": True},
    {"modality": "CT", "orientation": "coronal"},
    {"modality": "MR", "orientation": "oblique"},
    {"modality": "MR", "empty": True},
]
REASONS = [
    None,
    None,
    None,
    "localizer",
    "secondary_capture",
    "burned_in",
    "other_modality",
    "other_orientation",
    "empty_slice",
]


def manifest(rows: list[Mapping[str, object]]) -> pa.Table:
    """Samples with labels by turns, each a group of its own."""
    return pa.Table.from_pylist(
        [
            dict.fromkeys(MANIFEST.names)
            | {"sample_id": f"{i:03d}", "uri": f"/x/{i:03d}", "sha256": f"{i:064x}", "group": f"{i:03d}"}
            | {"label": ("no_tumour", "tumour")[i % 2]}
            | dict(row)
            for i, row in enumerate(rows)
        ],
        schema=MANIFEST,
    )


def reasons(rows: list[Mapping[str, object]], *settings: str) -> list[str | None]:
    data = load_config(None, [f"data.{setting}" for setting in settings]).data
    left_out: list[str | None] = mark_left_out(manifest(rows), data)["left_out"].to_pylist()
    return left_out


def test_by_default_everything_but_axial_mr_is_left_out_and_what_says_nothing_is_kept() -> None:
    assert reasons(KINDS) == REASONS


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("include.localizers=true", {3: "other_orientation"}),
        ("include.secondary_captures=true", {4: "other_modality"}),
        ("include.burned_in=true", {5: None}),
        ("include.modalities=[CT]", {**dict.fromkeys([1, 2, 7], "other_modality"), 6: "other_orientation"}),
        ("include.modalities=null", {6: "other_orientation"}),
        ("include.other_orientations=true", {7: None}),
        ("include.derived=false", {2: "derived"}),
        ("slices=coronal", {1: "other_orientation"}),
    ],
)
def test_each_kind_has_its_key(setting: str, changes: dict[int, str | None]) -> None:
    assert reasons(KINDS, setting) == [changes.get(i, reason) for i, reason in enumerate(REASONS)]


def test_everything_may_be_included_but_empty_slices() -> None:
    keys = ("localizers", "derived", "secondary_captures", "burned_in", "other_orientations")
    everything = ("include.modalities=null", *(f"include.{key}=true" for key in keys))
    assert reasons(KINDS, *everything) == [None] * 8 + ["empty_slice"]


def test_a_row_with_an_error_is_counted_by_its_error() -> None:
    table = manifest([{"image_kind": "localizer", "error_code": "corrupt"}, {"image_kind": "localizer"}])
    marked = mark_left_out(table, DataConfig())
    assert count_left_out(marked) == {"corrupt": 1, "localizer": 1}
    assert describe_left_out(marked) == "1 sample(s) are left out of training (localizer 1): see data.include."
    assert describe_left_out(mark_left_out(manifest([{}]), DataConfig())) is None
    assert clear_left_out(marked)["left_out"].null_count == 2


@given(st.lists(st.integers(0, len(KINDS) - 1), max_size=40), st.integers(0, 9))
def test_splits_are_shares_of_what_is_trained_on(kinds: list[int], seed: int) -> None:
    rows = [KINDS[0]] * 20 + [KINDS[kind] for kind in kinds]
    split = assign_splits(mark_left_out(manifest(rows), DataConfig()), val=0.2, test=0.2, seed=seed)
    assert split["split"].is_null().to_pylist() == [REASONS[kind] is not None for kind in [0] * 20 + kinds]
    used = 20 + sum(REASONS[kind] is None for kind in kinds)
    assert abs(count_values(split, "split")["test"] - used / 5) <= 1.5


def test_training_says_in_one_line_what_it_leaves_out() -> None:
    notices: list[str] = []
    rows = [KINDS[0]] * 20 + KINDS
    prepared = prepare_manifest(manifest(rows), Config(), notices.append)
    (line,) = [text for text in notices if "left out of training" in text]
    assert line == (
        "5 sample(s) are left out of training (burned_in 1, localizer 1, other_modality 1, other_orientation 1, "
        "secondary_capture 1): see data.include."
    )
    assert count_left_out(prepared) == {reason: 1 for reason in REASONS if reason}
    earlier = prepare_manifest(prepared, Config(), notices.append)
    assert earlier.equals(prepared)


def test_samples_of_a_given_split_are_left_out_of_it() -> None:
    rows = [{**kind, "split": split} for split in ("train", "val", "test") for kind in [KINDS[0]] * 2 + [KINDS[3]] * 2]
    prepared = prepare_manifest(manifest(rows), Config())
    assert count_values(prepared, "split") == {"none": 6, "test": 2, "train": 2, "val": 2}


def test_a_label_is_asked_of_no_sample_that_is_left_out() -> None:
    prepared = prepare_manifest(manifest([KINDS[0]] * 20 + [{**KINDS[3], "label": None}]), Config())
    assert count_left_out(prepared) == {"localizer": 1}


def test_where_nothing_is_left_the_reasons_are_named() -> None:
    with pytest.raises(
        ManifestError, match=r"no sample of the manifest can be trained on: 8 .*other_modality 8.*data\.include"
    ):
        prepare_manifest(manifest([{"modality": "CT"}] * 8), Config())
    with pytest.raises(ManifestError, match="all slices are empty"):
        prepare_manifest(manifest([{"empty": True}] * 8), Config())


def test_an_evaluation_says_what_else_it_measures() -> None:
    text = describe_measured(manifest([KINDS[1], *KINDS[3:5], {**KINDS[3], "label": None}]), DataConfig())
    assert text is not None
    assert text.startswith("2 of 4 sample(s) are of kinds that training leaves out (localizer 1, secondary_capture 1)")
    assert describe_measured(manifest(KINDS[:3]), DataConfig()) is None


def test_the_summary_counts_kinds() -> None:
    summary = summarise(manifest(KINDS))
    assert summary.modalities == {"CT": 1, "MR": 6, "OT": 1, "none": 1}
    assert summary.image_kinds == {"derived": 1, "localizer": 1, "none": 5, "original": 1, "secondary_capture": 1}
    assert summary.orientations == {"axial": 1, "coronal": 1, "none": 5, "oblique": 1, "sagittal": 1}
    assert summary.burned_in == 2


@pytest.mark.parametrize("setting", ["include.localizer=true", "include.modalities=[]", "include.localizers=2"])
def test_a_key_or_value_that_makes_no_sense_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=r"data\.include"):
        load_config(None, [f"data.{setting}"])


def test_the_keys_survive_a_file(tmp_path: Path) -> None:
    config = load_config(None, ["data.include.modalities=[MR, CT]"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(str(tmp_path / "c.yaml")) == config
    assert config.data.include.modalities == ("MR", "CT")
