"""Pictures of samples whose pixels may show a name are drawn for those only who ask."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.evaluation.gallery import choose_cases
from brainscale.evaluation.report.page import Case
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
    worst, uncertain = choose_cases(bundle, manifest, predictions, samples, show_burned_in=show_burned_in)
    assert not uncertain
    return {case.sample_id: case for case in worst}


def test_the_gallery_lists_a_case_with_text_but_does_not_show_it(scans: Path, bundle: Bundle) -> None:
    shown = cases(scans, bundle, show_burned_in=False)
    assert list(shown) == list(KINDS)
    assert [name for name, case in shown.items() if case.picture] == PLAIN
    assert [name for name, case in shown.items() if not case.withheld] == PLAIN
    everything = cases(scans, bundle, show_burned_in=True)
    assert all(case.picture and not case.withheld for case in everything.values())


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
