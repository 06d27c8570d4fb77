"""A small source is indexed without Ray, with the rows and bytes that Ray gives."""

import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.small_jobs import MAX_ARCHIVE_NBYTES, MAX_FILES, MAX_NBYTES, is_small, read_here
from brainscale.reading.sources import SourceFile, list_files
from tests.support.images import write_image
from tests.support.runs import Invoke, succeed

INDEX = """
import sys
from brainscale.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def file(name: str = "a.jpg", nbytes: int | None = 1000, folder: str = "/scans") -> SourceFile:
    return SourceFile(sample_id=name, uri=f"{folder}/{name}", nbytes=nbytes)


@pytest.mark.parametrize(
    ("files", "small"),
    [
        ([], True),
        ([file()] * MAX_FILES, True),
        ([file()] * (MAX_FILES + 1), False),
        ([file(nbytes=MAX_NBYTES)], True),
        ([file(nbytes=MAX_NBYTES), file()], False),
        ([file("a.zip", MAX_ARCHIVE_NBYTES)], True),
        ([file("a.zip", MAX_ARCHIVE_NBYTES + 1)], False),
        ([file("a.NII.GZ", MAX_ARCHIVE_NBYTES + 1)], False),
        ([file("export", MAX_ARCHIVE_NBYTES + 1)], False),
        ([file(nbytes=None)], True),
        ([file(nbytes=None, folder="s3://bucket")], False),
        ([file(folder="s3://bucket")], True),
    ],
)
def test_small_is_few_files_few_bytes_and_no_large_archive(files: list[SourceFile], small: bool) -> None:
    assert is_small(files) is small


def test_threads_give_the_rows_of_one_in_the_same_order(tmp_path: Path) -> None:
    for number in range(70):
        write_image(tmp_path / f"{number:02d}.png", number)
    read = partial(read_tables, request=ReadRequest(preprocess=PreprocessConfig(), planes=False, hashes=True))
    files = list_files([str(tmp_path)])
    one, three = (pa.concat_tables(read_here(files, read, threads)) for threads in (1, 3))
    assert one.equals(three)
    assert one["sample_id"].to_pylist() == [f"{number:02d}.png" for number in range(70)]


def index_in_a_child(source: Path, out: Path, key: Path) -> tuple[float, set[str]]:
    """The CPU seconds of a process that indexes, with its decoder, and the packages that it loaded."""
    arguments = ["index", source, "--out", out, "--patient-key", key, "--hash-paths"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", INDEX, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, and beside them the key and the manifest that a child process made."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(10):
        write_image(folder / "scans" / ("yes", "no")[number % 2] / f"{number}.jpg", number)
    (folder / "key").write_text("k" * 64)
    return folder


def test_ten_files_start_no_ray_and_load_no_torch(small: Path) -> None:
    seconds, packages = index_in_a_child(small / "scans", small / "here.parquet", small / "key")
    assert not packages & {"ray", "torch", "scipy", "sklearn", "matplotlib", "jinja2"}
    assert seconds < 10, "some 2 on an idle machine"


def test_the_python_api_starts_no_ray_either(small: Path) -> None:
    code = "import sys, brainscale; print(len(brainscale.index(sys.argv[1])), 'ray' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code, small / "scans"], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "10 False\n", done.stderr


@pytest.mark.ray
def test_ray_writes_the_same_bytes(ray_cluster: None, small: Path, invoke: Invoke) -> None:
    here, there = small / "a.parquet", small / "b.parquet"
    index_in_a_child(small / "scans", here, small / "key")
    arguments = ["index", small / "scans", "--out", there, "--patient-key", small / "key", "--hash-paths"]
    succeed(invoke(*arguments))
    assert here.read_bytes() == there.read_bytes()


def test_index_says_in_which_form_it_wrote(small: Path, tmp_path: Path, invoke: Invoke) -> None:
    facts = json.loads(succeed(invoke("index", small / "scans", "--out", f"{tmp_path}/m/", "--json")).stdout)
    assert facts["form"] == "folder of 1 shard"
    facts = json.loads(
        succeed(invoke("index", small / "scans", "--out", tmp_path / "m.parquet", "--shard-rows", 4, "--json")).stdout
    )
    assert facts["form"] == "folder of 3 shards"
    assert (tmp_path / "m.parquet").is_dir()
