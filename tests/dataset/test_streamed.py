"""A manifest that is made portion by portion is, row for row, the one that one table gives."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from brainscale.config.files import load_config
from brainscale.dataset import indexer, streamed
from brainscale.dataset.columns import replace_column
from brainscale.dataset.indexer import write_index
from brainscale.dataset.manifest import cut_shards, read_manifest
from brainscale.dataset.outputs import STATE
from brainscale.dataset.patients import find_candidates, find_patients
from brainscale.dataset.portions import cut_portions
from brainscale.dataset.shard_columns import ManifestColumns, keys_of, shuffle_here
from brainscale.dataset.sharded_patients import WORDS, add_candidates, choose_patients
from brainscale.errors import ManifestError, UsageError
from brainscale.reading.pseudonyms import pseudonym
from brainscale.reading.sources import SourceFile
from brainscale.schema import MANIFEST
from brainscale.storage.shards import write_shards
from brainscale.storage.tables import ORIGIN
from tests.dataset.test_patients import DATA, KEY, made
from tests.support.files import zipped
from tests.support.images import write_image
from tests.support.series import as_enhanced, as_series, phantom

CONFIG = load_config(None, ["data.image_size=64"])


def listed(*names: str) -> list[SourceFile]:
    return [SourceFile(sample_id=name, uri=f"/s/{name}") for name in names]


def cut(names: Sequence[str], size: int) -> list[list[str]]:
    return [[file.sample_id for file in portion] for portion in cut_portions(listed(*names), size)]


def test_a_portion_ends_with_its_folder_or_at_twice_its_size() -> None:
    assert cut(["a/1", "a/2", "a/3", "b/1", "b/2", "c"], 2) == [["a/1", "a/2", "a/3"], ["b/1", "b/2"], ["c"]]
    assert cut(["a", "b", "c", "d", "e"], 1) == [["a", "b"], ["c", "d"], ["e"]]
    assert cut([], 1) == []


def test_files_between_the_samples_of_another_are_in_its_portion() -> None:
    names = ["IM1", "IM1 (1)", "IM1 (2)", 'IM1"', "IM10", "IM2"]
    assert names == sorted(names)
    assert cut(names, 1) == [["IM1", "IM1 (1)", "IM1 (2)", 'IM1"'], ["IM10", "IM2"]]
    assert "IM1#0" > "IM1 (2)"


def hashed(names: Sequence[str | None]) -> list[str | None]:
    return [pseudonym(name, KEY.secret) for name in names]


def draw(seed: int) -> tuple[pa.Table, list[str | None]]:
    """Samples of patients of several issuers, with placeholders, series and labels."""
    rng = np.random.default_rng(seed)
    rows = 120
    names = [f"{'yes' if n % 3 else 'no'}/{'sub-x' if seed % 2 else f'sub-{n % 7}'}/{n:03}.dcm" for n in range(rows)]
    several = [None if n % 11 == 0 else f"p{rng.integers(6)}" for n in range(rows)]
    patients = ["EXPORT" if seed % 3 == 0 and n % 12 else name for n, name in enumerate(several)]
    issuers = [None if name is None or n % 4 == 0 else f"{name} {rng.integers(3)}" for n, name in enumerate(patients)]
    columns = {
        "patient": hashed(patients),
        "patient_with_issuer": hashed(issuers if seed % 2 else [None] * rows),
        "patient_placeholder": ["anonymous" if name is None else None for name in patients],
        "scan": [None if n % 5 == 0 else f"s{n // 2}" for n in range(rows)],
        "error_code": ["corrupt" if n % 17 == 0 else None for n in range(rows)],
    }
    labels = ["tumour" if n % 3 else "no_tumour" for n in range(rows)]
    return made(names, **columns), labels  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(8))
def test_patients_of_shards_are_those_of_one_table(seed: int, tmp_path: Path) -> None:
    table, labels = draw(seed)
    rows: list[int | None] = [None] * len(table)
    expected = find_patients(table, labels, rows, None, None, DATA, KEY)
    known = [table[name] if name in table.column_names else pa.nulls(len(table)) for name in MANIFEST.names]
    manifest = pa.table([column.cast(f.type) for column, f in zip(known, MANIFEST, strict=True)], schema=MANIFEST)
    manifest = replace_column(manifest, "label", pa.array(labels))
    candidates = find_candidates(table, rows, None, None, DATA, KEY)
    begun = add_candidates(manifest, candidates, table["patient_with_issuer"]).sort_by("sample_id")
    shards = write_shards(cut_shards(begun, 37), tmp_path / "m", "manifest")
    choice, columns = choose_patients(ManifestColumns((shards,), map, shuffle_here), is_pattern=False, file=None)
    finished = pa.concat_tables(choice.apply(part) for part in shards.tables())
    order = np.argsort(table["sample_id"].to_pylist())
    assert finished["patient"].to_pylist() == [expected.hashes[row] for row in order]
    assert [text for text in expected.notices if text.startswith("One ")] == choice.notices
    assert columns.known.tolist() == finished["patient"].is_valid().to_pylist()
    keys = keys_of(finished["patient"], "patient")
    assert (columns.patients == keys)[columns.known].all()
    assert WORDS in finished.column_names


@pytest.fixture(scope="module")
def source(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, some in an archive and some twice, series, a multi-frame object and files that cannot be read."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(phantoms, folder / "scans")
    images = sorted(path for path in (folder / "scans").rglob("*") if path.suffix in (".png", ".jpg"))
    (folder / "yes").mkdir()
    (folder / "yes" / "pack.zip").write_bytes(
        zipped({f"{n}{p.suffix}": p.read_bytes() for n, p in enumerate(images[:9])})
    )
    volume = phantom()
    for series in ("1.2.3", "1.2.4"):
        for number, data in enumerate(as_series(volume, series=series)):
            path = folder / "no" / series / f"{number * 7 % 12:02}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (folder / "no" / "IM").write_bytes(as_enhanced(volume, series="1.2.5"))
    write_image(folder / "no" / "IM (1).png", 5)
    (folder / "no" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text("k" * 64)
    return str(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "MAX_FILES", 20)
    monkeypatch.setattr(streamed, "PORTION_FILES", 16)


def both(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Path:
    """Index a source as one table and in portions, compare all there is, and return the folder of shards."""
    said: tuple[list[str], list[str]] = [], []
    with monkeypatch.context() as patched:
        patched.setattr(indexer, "MAX_FILES", 10**6)
        one = write_index([str(source)], str(tmp_path / "one.parquet"), CONFIG, on_notice=said[0].append, **options)  # type: ignore[arg-type]
    many = write_index(
        [str(source)],
        f"{tmp_path}/many/",
        CONFIG,
        shard_rows=25,
        on_notice=said[1].append,
        **options,  # type: ignore[arg-type]
    )
    tables = [read_manifest(tmp_path / name) for name in ("many", "one.parquet")]
    assert tables[0].equals(tables[1])
    facts = [
        {name: value for name, value in table.schema.metadata.items() if name not in (ORIGIN, STATE)}
        for table in tables
    ]
    assert facts[0] == facts[1]
    assert (many.summary, many.header_only_control) == (one.summary, one.header_only_control)
    assert said[1][0].startswith("More than 20 files: the manifest becomes a folder of shards.")
    assert said[1][1:] == said[0]
    names = {path.name for path in (tmp_path / "many").iterdir()}
    assert len(names) == many.shards + 1 > 4, "shards that are not finished are gone"
    return tmp_path / "many"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "small")
class TestOnRay:
    """Both ways on one Ray."""

    @pytest.mark.parametrize("hash_paths", [False, True])
    def test_the_manifest_is_that_of_one_table(
        self, source: Path, key: str, hash_paths: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both(source, tmp_path, monkeypatch, patient_key=key, hash_paths=hash_paths)

    def test_with_a_label_file_and_a_pattern(
        self, source: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = sorted(path.relative_to(source).as_posix() for path in (source / "scans").rglob("*.*"))
        lines = [f"{name},{'yes' if n % 2 else 'no'},site{n % 3}" for n, name in enumerate(images)]
        labels = tmp_path / "labels.csv"
        labels.write_text("\n".join(["sample_id,label,site", *lines, "yes/pack.zip,yes,site9"]))
        options = {"patient_key": key, "labels": str(labels), "patient_from": r"no/([^/]+)/"}
        folder = both(source, tmp_path, monkeypatch, **options)
        assert set(read_manifest(folder)["site"].to_pylist()) == {None, "site0", "site1", "site2", "site9"}
        with labels.open("a") as file:
            file.write("\nnowhere.png,no,site1")
        with pytest.raises(ManifestError, match=r"labels 'nowhere.png', which is not in the sources"):
            write_index([str(source)], f"{tmp_path}/other/", CONFIG, labels=str(labels))
        assert list((tmp_path / "other").iterdir()) == []

    def test_a_series_in_two_portions_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streamed, "PORTION_FILES", 10)
        for number, data in enumerate(as_series(phantom()) * 2):
            (tmp_path / "s").mkdir(exist_ok=True)
            (tmp_path / "s" / f"{number:02}").write_bytes(data)
        said: list[str] = []
        result = write_index([str(tmp_path / "s")], f"{tmp_path}/m/", CONFIG, on_notice=said.append)
        assert result.summary.samples == 24
        assert any(text.startswith("1 of 1 series have files in several portions of the listing") for text in said)

    def test_nothing_readable_and_pages_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        for number in range(21):
            (tmp_path / "s" / f"{number:02}.jpg").write_bytes(b"nothing")
        with pytest.raises(ManifestError, match=r"none of the 21 file\(s\) in .* for example '00.jpg'"):
            write_index([str(tmp_path / "s")], f"{tmp_path}/m/", CONFIG)
        with pytest.raises(UsageError, match="--pairs looks at all samples in memory, and the sources contain more th"):
            write_index([str(tmp_path / "s")], f"{tmp_path}/m/", CONFIG, pairs=str(tmp_path / "p.html"))
