"""The cases of the report; pictures whose pixels may show a name are drawn for those only who ask."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brainscale.evaluation.gallery import SHOWN, choose_cases
from brainscale.evaluation.report.cases import Case, CaseRow
from brainscale.models.bundle import Bundle
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from brainscale.schema import MANIFEST, PREDICTIONS
from brainscale.scoring.outputs import draw_heatmaps
from brainscale.scoring.parts import Part, write_part
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Scores
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.storage.folder import Folder
from tests.support.bundles import make_bundle, network_with_statistics
from tests.support.dicom import dataset, written
from tests.support.samples import LONG

KINDS: dict[str, dict[str, object]] = {
    "a-capture.dcm": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
    "b-burned-in.dcm": {"BurnedInAnnotation": "YES"},
    "c-plain.dcm": {},
    "d-without-text.dcm": {"BurnedInAnnotation": "NO"},
}
PLAIN = ["c-plain.dcm", "d-without-text.dcm"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    return make_bundle(folder, network_with_statistics("brainmrnet"), "brainmrnet")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for name, elements in KINDS.items():
        (folder / name).write_bytes(written(dataset(rng.integers(0, 4096, (64, 64), np.uint16), **elements)))
    return folder


def rows(scans: Path, bundle: Bundle) -> tuple[pa.Table, pa.Table]:
    """The scans' manifest and predictions: all are errors, the first the most confident."""
    samples = list(read_samples(scans, ReadRequest(preprocess=bundle.info.preprocess)))
    facts = [{"sample_id": s.sample_id, "uri": s.uri, "burned_in": s.acquisition.burned_in} for s in samples]
    scored = [
        {**f, "label": "no_tumour", "prediction": "tumour", "probability": 0.9 - i / 10, "model": "w"}
        | {"probabilities": [0.1 + i / 10, 0.9 - i / 10]}
        for i, f in enumerate(facts)
    ]
    whole = [
        pa.Table.from_pylist([dict.fromkeys(schema.names) | f for f in some], schema=schema)
        for schema, some in ((MANIFEST, facts), (PREDICTIONS, scored))
    ]
    return whole[0], whole[1]


def cases(scans: Path, bundle: Bundle, *, show_burned_in: bool) -> dict[str, Case]:
    manifest, predictions = rows(scans, bundle)
    samples = LabelledProbabilities.from_predictions(predictions, list(bundle.info.classes), threshold=0.5, groups=None)
    (alarms,) = choose_cases(bundle, manifest, predictions, samples, show_burned_in=show_burned_in)
    assert alarms.title == "False alarms (false positives)"
    return {case.sample_id: case for case in alarms.cases}


def test_the_gallery_lists_a_case_with_text_but_does_not_show_it(scans: Path, bundle: Bundle) -> None:
    shown = cases(scans, bundle, show_burned_in=False)
    assert list(shown) == list(KINDS)
    assert [name for name, case in shown.items() if case.picture] == PLAIN
    assert [name for name, case in shown.items() if not case.withheld] == PLAIN
    everything = cases(scans, bundle, show_burned_in=True)
    assert all(case.picture and case.heatmap and not case.withheld for case in everything.values())
    side = bundle.info.preprocess.image_size
    for case in everything.values():
        for data, kind in ((case.picture, "PNG"), (case.heatmap, "JPEG")):
            assert data is not None
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, picture.size) == (kind, (side, side))


OUTCOMES = "Missed tumours", "False alarms", "Detected tumours", "Least certain"


def withheld_rows(
    bundle: Bundle, labels: list[int], scores: list[float], groups: list[int] | None = None, *, kinds: int = 1
) -> list[CaseRow]:
    """The gallery of made-up predictions, without pictures."""
    tumour, classes = np.array(scores), ("none", "a", "b")[: kinds + 1]
    probabilities = np.zeros((len(labels), kinds + 1))
    probabilities[:, 0], probabilities[:, 1] = 1 - tumour, tumour
    codes = None if groups is None else np.array(groups)
    samples = LabelledProbabilities(labels=np.array(labels), probabilities=probabilities, classes=classes, groups=codes)
    table = pa.table(
        {
            "sample_id": [f"{i}.png" for i in range(len(labels))],
            "label": [classes[i] for i in labels],
            "prediction": [classes[i] for i in samples.predicted],
            "probability": scores,
            "burned_in": [True] * len(labels),
        }
    )
    return choose_cases(bundle, MANIFEST.empty_table(), table, samples)


def test_each_outcome_has_a_row_and_says_where_it_is_empty(bundle: Bundle) -> None:
    rows = withheld_rows(bundle, [1, 1, 1, 0, 0], [0.9, 0.1, 0.3, 0.2, 0.4])
    assert [row.title.split(" (")[0] for row in rows] == list(OUTCOMES)
    ids = [[case.sample_id for case in row.cases] for row in rows]
    assert ids == [["1.png", "2.png"], [], ["0.png"], ["4.png", "3.png"]]
    assert [row.about for row in rows[:3]] == [
        "2 samples, the most confident first.",
        "There was no false alarm.",
        "1 sample.",
    ]
    only_tumours = withheld_rows(bundle, [1, 1], [0.9, 0.1])
    assert [row.title.split(" (")[0] for row in only_tumours] == ["Missed tumours", "Detected tumours"]
    three = withheld_rows(bundle, [2, 1, 0], [0.9, 0.9, 0.1], kinds=2)
    confused = next(row for row in three if row.title == "Tumours of another class than predicted")
    assert [case.sample_id for case in confused.cases] == ["0.png"]


def test_a_group_shows_one_sample_which_stands_for_the_others(bundle: Bundle) -> None:
    missed, _, detected, uncertain = withheld_rows(
        bundle, [1] * 7 + [0], [0.1, 0.2, 0.15, 0.3, 0.9, 0.8, 0.6, 0.1], [0, 0, 0, 1, 2, 2, 3, 4]
    )
    assert [(case.sample_id, case.like_it) for case in missed.cases] == [("0.png", 2), ("3.png", 0)]
    assert missed.about == "4 samples in 2 groups, one of each group, the most confident first."
    assert [(case.sample_id, case.like_it) for case in detected.cases] == [("4.png", 1), ("6.png", 0)]
    assert [case.sample_id for case in uncertain.cases] == ["7.png"]


def test_detected_tumours_are_shown_from_the_clearest_to_the_closest(bundle: Bundle) -> None:
    scores = [0.51 + 0.004 * i for i in range(101)]
    _, detected, _ = withheld_rows(bundle, [1] * 101, scores)
    assert [case.sample_id for case in detected.cases] == [f"{i}.png" for i in (100, 80, 60, 40, 20, 0)]
    assert detected.about == "101 samples; 6 are shown, from the most to the least confident."


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=40))
@settings(max_examples=100 if LONG else 20, deadline=None)
def test_no_row_shows_two_samples_of_a_group(bundle: Bundle, samples: list[tuple[bool, int, int]]) -> None:
    labels, scores, groups = [[row[i] for row in samples] for i in range(3)]
    rows = withheld_rows(bundle, [int(label) for label in labels], [score / 20 for score in scores], list(groups))
    for row in rows:
        shown = [groups[int(case.sample_id.removesuffix(".png"))] for case in row.cases]
        assert len(shown) == len(set(shown)) <= SHOWN
    outcomes = [case for row in rows if row.title != "Least certain" for case in row.cases]
    wrong = sum(label != (score >= 10) for label, score, _ in samples)
    assert bool(wrong) == any(case.label != case.prediction for case in outcomes)


@pytest.mark.parametrize(("show_burned_in", "names"), [(False, PLAIN), (True, list(KINDS)[:2])])
def test_heatmaps_are_drawn_of_samples_without_text(
    scans: Path, bundle: Bundle, tmp_path: Path, show_burned_in: bool, names: list[str]
) -> None:
    _, predictions = rows(scans, bundle)
    files = list_files([str(scans)])
    folder, part = Folder(str(tmp_path / "scores")), Part(block="0" * 16, rows=len(predictions))
    folder.create()
    write_part(folder, part, predictions, {}, "")
    counts = {"files": len(files), "rows": len(predictions), "scored": len(predictions), "errors": {}}
    about = Scores(path=str(folder), architecture="", identity={}, parts=[part.name], **counts)  # type: ignore[arg-type]
    pictures, job = str(tmp_path / "pictures"), ScoringJob(bundle=bundle, threshold=0.5)
    assert draw_heatmaps(folder, about, pictures, files, job, 2, show_burned_in=show_burned_in) == 2
    drawn = pq.read_table(tmp_path / "pictures" / "heatmaps.parquet")
    assert drawn["sample_id"].to_pylist() == names
