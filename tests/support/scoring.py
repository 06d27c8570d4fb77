"""Scoring jobs of milliseconds: files of text in place of images, and a mean in place of a network.

A file that says `crash` crashes its decoder, one that says `bad` is corrupt, and one that says a number has so many
frames; all else is one image. What plans, reads ahead, names, writes and checks is what scores archives.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.models.bundle import Bundle, ModelInfo, OperatingPoint
from brainscale.models.engines import EngineOutput
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample
from brainscale.reading.sources import SourceFile, open_file, walk_files
from brainscale.scoring.folder_job import Callbacks, FolderJob, Runner
from brainscale.scoring.locally import LocalRunner
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Amount, Scores
from brainscale.scoring.spool import SpooledFiles
from brainscale.storage.folder import Folder

SIDE = 64
BLOCK_FILES = 4
"""Mean number of files of a block."""


class Killed(BaseException):
    """What ends a job in the middle here, as kill -9 does elsewhere."""


def made_up_bundle(weights: str = "w") -> Bundle:
    info = ModelInfo(
        architecture="none",
        classes=DEFAULT_CLASSES,
        preprocess=PreprocessConfig(image_size=SIDE),
        operating_points={"slice": OperatingPoint(threshold=0.5, threshold_source="fixed")},
        parameters=0,
        weights_sha256=weights,
        onnx_sha256="",
        manifest_sha256="",
        config_sha256="",
        seed=0,
        epoch=1,
        versions={},
        model_sha256="",
    )
    return Bundle(folder=Path(), info=info)


def read_text(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Stands for `reading.reader._read_members`."""
    with open_file(file.uri) as (stream, _):
        stream.seek(0)
        data = stream.read()
    text, digest = data.decode(), hashlib.sha256(data).hexdigest()
    if text == "crash":
        raise SampleError("decoder_crashed", "the file crashed its decoder")
    if text == "bad":
        raise SampleError("corrupt", "the decoder cannot read the file")
    frames = int(text) if text.isdigit() else None
    for number in range(frames or 1):
        frame = None if frames is None else number
        sample_id = file.sample_id if frame is None else f"{file.sample_id}#{frame}"
        grey = int(hashlib.sha256(f"{digest}{number}".encode()).hexdigest()[:2], 16)
        plane = np.full((SIDE, SIDE), grey, np.uint8)
        patient = pseudonym(file.sample_id.partition("/")[0], request.key)
        yield Sample(sample_id=sample_id, uri=file.uri, frame=frame, sha256=digest, plane=plane, patient=patient)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scoring of this process take text for images, in blocks of a few files."""

    def engine(planes: np.ndarray) -> EngineOutput:
        tumour = planes.mean((1, 2), dtype=np.float64).astype(np.float32) / 255
        return EngineOutput(np.stack([1 - tumour, tumour], 1), np.stack([tumour], 1))

    monkeypatch.setattr("brainscale.reading.reader._read_members", read_text)
    monkeypatch.setattr("brainscale.scoring.scorer.prepare_decoder", lambda request: None)
    monkeypatch.setattr("brainscale.models.graphs.read_network", lambda bundle, options: b"")
    monkeypatch.setattr("brainscale.models.graphs.load_engine", lambda *arguments, **options: engine)
    monkeypatch.setattr("brainscale.scoring.blocks.MIN_BLOCK_ROWS", BLOCK_FILES)


@dataclass
class Job:
    """A scoring job without a command line.

    Attributes:
        out: the folder.
        sources: what to score.
        notices: what it told the user.
        done: the amounts that it reported, the first of them what was done before.
    """

    out: Path | str
    sources: tuple[Path | str, ...]
    notices: list[str] = field(default_factory=list)
    done: list[Amount] = field(default_factory=list)

    def run(
        self,
        *,
        update: bool = False,
        prune: bool = False,
        kill_after: int | None = None,
        on_part: Callable[[], object] = lambda: None,
        files: Iterable[SourceFile] | None = None,
        start: Callable[[ScoringJob], AbstractContextManager[Runner]] = LocalRunner,
        bundle: Bundle | None = None,
        **settings: Any,
    ) -> Scores:
        """Run it; `kill_after` so many blocks, and `on_part` after each, break in."""

        def report(amount: Amount) -> None:
            self.done.append(amount)
            on_part()
            if kill_after is not None and len(self.done) > kill_after:
                raise Killed

        job = ScoringJob(**{"bundle": bundle or made_up_bundle(), "threshold": 0.5, "has_key": False, **settings})
        listed = walk_files(list(map(str, self.sources))) if files is None else files
        opened: Callable[[], AbstractContextManager[Runner]] = lambda: start(job)  # noqa: E731
        callbacks = Callbacks(lambda total, done: self.done.append(done), report, self.notices.append)
        how = {"update": update, "prune": prune, "store_seconds": 60.0}
        return FolderJob(Folder(str(self.out)), job, SpooledFiles(listed), opened, callbacks, **how).run()  # type: ignore[arg-type]


def score(out: Path, *sources: Path | str, **settings: Any) -> Scores:
    """Score text into a folder, which is created."""
    Folder(str(out)).create()
    return Job(out, sources).run(**settings)


def write_texts(folder: Path, texts: dict[str, object]) -> Path:
    """Write files of text, by names that no DICOM file has."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(text))
    return folder


def snapshot(out: Path) -> dict[str, bytes]:
    """The parts of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of the parts of a folder, by sample."""
    rows = (row for path in out.glob("part-*") for row in pq.read_table(path).to_pylist())
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def codes_of(out: Path) -> dict[str, str | None]:
    """Sample id → error code; every sample once."""
    rows = rows_of(out)
    codes = {row["sample_id"]: row["error_code"] for row in rows}
    assert len(codes) == len(rows)
    return codes


def finished(out: Path) -> dict[str, Any]:
    """What `_SUCCESS.json` says; it names the parts that are there, and counts their rows."""
    facts: dict[str, Any] = json.loads((out / "_SUCCESS.json").read_text())
    assert facts["parts"] == sorted(facts["parts"]) == sorted(path.name for path in out.glob("part-*"))
    rows = rows_of(out)
    assert facts["rows"] == len(rows)
    assert facts["scored"] == sum(row["error_code"] is None for row in rows)
    codes = [row["error_code"] for row in rows if row["error_code"]]
    assert facts["errors"] == {code: codes.count(code) for code in sorted(set(codes))}
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    return facts
