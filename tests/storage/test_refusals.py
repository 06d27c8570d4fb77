"""What a store refuses for good is told apart from a store that does not answer, and no time is lost with either."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import ERROR_CODES, SampleError, SourceError, StorageError
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import REASONS, list_files, open_file
from brainscale.storage import remote
from brainscale.storage.remote import StoreWatch, join_address, retrying
from tests.support.images import write_image
from tests.support.stores import Gate, client_of, make_bucket, options, refusal


def refused_code(uri: str) -> str:
    """Return the error code of a file that is read to its end; its text names no path."""
    with pytest.raises(SampleError) as refused, open_file(uri) as (stream, _):
        stream.seek(0)
        while stream.read(100):
            pass
    assert "/" not in refused.value.text
    assert refused.value.code in ERROR_CODES
    return refused.value.code


@pytest.mark.parametrize("nbytes", [200, 300_000])
@pytest.mark.parametrize("tier", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_known_by_one_request(s3_gate: Gate, nbytes: int, tier: str) -> None:
    client = client_of(s3_gate.address)
    client.put_object(Bucket="bucket", Key=f"{tier}/{nbytes}", Body=bytes(nbytes), StorageClass=tier)
    asked = s3_gate.asked
    assert refused_code(f"s3://bucket/{tier}/{nbytes}{options(s3_gate.address)}") == "archived"
    assert s3_gate.asked - asked == 2  # its size, then its bytes


def test_objects_without_permission_and_objects_that_went_have_codes_of_their_own(s3_gate: Gate) -> None:
    client, end = client_of(s3_gate.address), options(s3_gate.address)
    make_bucket(s3_gate.address, "guarded")
    for name in ("closed", "open", "later"):
        client.put_object(Bucket="guarded", Key=name, Body=bytes(5000))
    asked = s3_gate.asked
    assert refused_code(f"s3://guarded/none{end}") == "gone"
    with pytest.raises(SampleError, match="gone"), open_file(f"s3://guarded/open{end}") as (stream, _):
        client.delete_object(Bucket="guarded", Key="open")
        asked += 1
        stream.seek(4900)  # the answer is longer than what is asked for
        stream.read(100)
    forbid(client, "guarded", "s3:GetObject", "guarded/closed")
    assert refused_code(f"s3://guarded/closed{end}") == "access_denied"
    with pytest.raises(SampleError, match="access_denied"), open_file(f"s3://guarded/later{end}") as (stream, _):
        forbid(client, "guarded", "s3:GetObject", "guarded/later")
        asked += 2
        stream.seek(0)
        stream.read(10)
    assert s3_gate.asked - asked < 10


@pytest.mark.parametrize("nbytes", [100, 5000])
def test_an_object_that_became_shorter_while_it_was_read_has_changed(s3_gate: Gate, nbytes: int) -> None:
    client = client_of(s3_gate.address)
    client.put_object(Bucket="bucket", Key="shrinks", Body=bytes(20_000))
    uri = f"s3://bucket/shrinks{options(s3_gate.address)}"
    with pytest.raises(SampleError, match="changed"), open_file(uri) as (stream, _):
        client.put_object(Bucket="bucket", Key="shrinks", Body=bytes(10))
        stream.seek(4000)
        stream.read(nbytes)


def test_refused_objects_are_rows_among_the_others_and_cost_no_time(s3_gate: Gate, tmp_path: Path) -> None:
    client = client_of(s3_gate.address)
    make_bucket(s3_gate.address, "mixed")
    image = write_image(tmp_path / "a.png").read_bytes()
    for name in ("1.png", "2.png", "4.png"):
        client.put_object(Bucket="mixed", Key=f"scans/{name}", Body=image)
    client.put_object(Bucket="mixed", Key="scans/3.png", Body=image, StorageClass="GLACIER")
    forbid(client, "mixed", "s3:GetObject", "mixed/scans/2.png")
    began = time.monotonic()
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64))
    samples = list(read_samples(f"s3://mixed/scans{options(s3_gate.address)}", request))
    codes = [sample.error_code for sample in samples]
    assert codes == [None, "access_denied", "archived", None]
    assert time.monotonic() - began < 20


def forbid(client: object, bucket: str, action: str, *names: str) -> None:
    resources = [f"arn:aws:s3:::{name}" for name in names]
    rule = {"Effect": "Deny", "Principal": "*", "Action": [action, "s3:HeadObject"], "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    client.put_bucket_policy(Bucket=bucket, Policy=policy)  # type: ignore[attr-defined]


def test_a_listing_without_permission_is_one_line_at_once(s3_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_gate, "answer", refusal("403 Forbidden", "AccessDenied"))
    monkeypatch.setattr(s3_gate, "is_open", False)
    asked = s3_gate.asked
    with pytest.raises(SourceError, match=r"^s3://bucket/\?.* cannot be read or written \(.*ACCESS_DENIED.*\): fix"):
        list_files([f"s3://bucket/{options(s3_gate.address)}"])
    assert s3_gate.asked - asked < 6


@pytest.mark.parametrize(
    ("message", "code", "final"),
    [
        ("AWS Error INVALID_OBJECT_STATE during GetObject operation: no", "archived", True),
        (
            "InvalidObjectState: AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush",
            "archived",
            True,
        ),
        ("GetProperties failed. Azure Error: [BlobArchived] 409 This operation is not permitted", "archived", True),
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "access_denied", True),
        ("AWS Error UNKNOWN (HTTP status 403) during GetObject operation: Unable to parse", "access_denied", True),
        ("Azure Error: [AuthorizationPermissionMismatch] 403 not authorized", "access_denied", True),
        ("AWS Error RESOURCE_NOT_FOUND during GetObject operation: ", "gone", True),
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: no", "gone", True),
        ("AWS Error INVALID_ACCESS_KEY_ID during GetObject operation: no", "store_unreachable", True),
        ("AWS Error UNKNOWN (HTTP status 400) during GetObject operation: ExpiredToken", "store_unreachable", True),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No body", "store_unreachable", True),
        ("KMS: AWS Error UNKNOWN (HTTP status 400) during GetObject operation: ", "access_denied", True),
        ("AWS Error UNKNOWN (HTTP status 409) during PutObject operation: conflict", "store_unreachable", False),
        ("AWS Error UNKNOWN (HTTP status 416) during GetObject operation: InvalidRange", "changed", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: none", "store_unreachable", False),
        ("AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: none", "store_unreachable", False),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 52", "store_unreachable", False),
        ("AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush", "store_unreachable", False),
    ],
)
def test_the_words_of_stores(message: str, code: str, final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", ())

    def fail() -> None:
        raise OSError(message)

    with pytest.raises(StorageError) as failed:
        retrying(fail, f"s3://words-of-{code}/x")
    assert (failed.value.code, failed.value.final) == (code, final)


def test_every_reason_has_a_meaning() -> None:
    assert REASONS.keys() <= ERROR_CODES.keys()


def test_local_files_have_the_same_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert refused_code(str(tmp_path / "none")) == "gone"
    assert refused_code(str(tmp_path / "link")) == "unreadable"
    assert refused_code(str(tmp_path)) == "not_a_file"

    def deny(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "open", deny)
    assert refused_code(str(tmp_path / "closed")) == "access_denied"


def count_attempts(location: str, *, answers: bool, breaker: bool = True) -> int:
    attempts = []

    def ask() -> None:
        attempts.append(1)
        if not answers:
            raise OSError("AWS Error NETWORK_CONNECTION")

    if answers:
        retrying(ask, location, breaker=breaker)
    else:
        with pytest.raises(StorageError):
            retrying(ask, location, breaker=breaker)
    return len(attempts)


def test_a_store_that_is_away_is_asked_once_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    assert count_attempts("s3://away/a", answers=False) == 4
    assert count_attempts("s3://away/folder/b", answers=False) == 1
    assert count_attempts("s3://away/result", answers=False, breaker=False) == 4  # what is written is worth the wait
    assert count_attempts("s3://away/a?region=eu", answers=False) == 4  # another store
    assert count_attempts("s3://elsewhere/a", answers=False) == 4
    assert count_attempts("s3://away/a", answers=True) == 1
    assert count_attempts("s3://away/a", answers=False) == 4

    def refuse() -> None:
        raise OSError("ACCESS_DENIED")

    with pytest.raises(StorageError):
        retrying(refuse, "s3://away/c")  # an answer, too
    assert count_attempts("s3://away/a", answers=False) == 4


def test_one_object_that_never_answers_does_not_cut_its_neighbours_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))

    def fail_beside_others() -> None:
        count_attempts("s3://neighbours/a", answers=True)
        raise OSError("busy")

    with pytest.raises(StorageError):
        retrying(fail_beside_others, "s3://neighbours/b")
    assert count_attempts("s3://neighbours/c", answers=False) == 3


def test_many_threads_wait_for_one_series_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.1, 0.1, 0.1))
    threads = [threading.Thread(target=lambda n=n: count_attempts(f"s3://many/{n}", answers=False)) for n in range(16)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(20):
        assert count_attempts("s3://many/after", answers=False) == 1
    assert time.monotonic() - began < 2


def test_a_file_costs_two_seconds_when_its_store_is_away(s3_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"s3://bucket/away{options(s3_gate.address)}"
    client_of(s3_gate.address).put_object(Bucket="bucket", Key="away/1", Body=b"1")
    monkeypatch.setattr(remote, "PAUSES", (0.1,))
    s3_gate.is_open = False
    try:
        assert refused_code(join_address(address, "1")) == "store_unreachable"
        monkeypatch.setattr(remote, "PAUSES", (60.0,))
        began = time.monotonic()
        assert refused_code(join_address(address, "1")) == "store_unreachable"
        assert time.monotonic() - began < 3
    finally:
        s3_gate.is_open = True
    with open_file(join_address(address, "1")) as (_, size):
        assert size == 1


REPORTS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=60
)


@given(reports=REPORTS, share=st.sampled_from([0.01, 0.1, 0.5]), window=st.sampled_from([10, 100, 10_000]))
def test_a_store_is_away_only_after_a_whole_time_without_enough_answers(
    reports: list[tuple[int, int, float]], share: float, window: int
) -> None:
    watch, now = StoreWatch(share, window, 300), 0.0
    above_since, last = None, -1e9
    seen: list[tuple[int, int]] = []
    for answered, unanswered, pause in reports:
        now += pause
        watch.count(answered, unanswered, now)
        seen.append((answered + unanswered, unanswered))
        first = len(seen)
        while first > 0 and sum(files for files, _ in seen[first:]) < window:
            first -= 1
        files, silent = map(sum, zip(*seen[first:], strict=True))
        last = now if unanswered else last
        above = silent > share * max(files, window // 10)
        above_since = (now if above_since is None else above_since) if above else None
        expected = above_since is not None and now - above_since >= 300 and now - last <= 300
        assert watch.is_away(now) == expected


def test_a_store_that_answers_nothing_is_away_after_five_minutes_and_back_with_its_answers() -> None:
    watch = StoreWatch()
    for minute in range(5):
        watch.count(0, 64, minute * 60.0)
        assert not watch.is_away(minute * 60.0)
    watch.count(0, 64, 300.0)
    assert watch.is_away(300.0)
    watch.count(100_000, 0, 301.0)
    assert not watch.is_away(301.0)


@pytest.mark.parametrize("unanswered", [1, 10])
def test_a_few_objects_that_never_answer_do_not_end_a_small_job(unanswered: int) -> None:
    watch = StoreWatch()
    watch.count(40, unanswered, 0)
    watch.count(0, 0, 1000)
    assert not watch.is_away(1000)
