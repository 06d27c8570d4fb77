"""A server that speaks S3, behind a gate."""

from collections.abc import Iterator

import pytest

from tests.support.stores import Gate, make_bucket, s3_server


@pytest.fixture(scope="module")
def s3_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate before an S3 server that holds a bucket named bucket."""
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        gate = Gate(port)
        make_bucket(gate.address, "bucket")
        yield gate
        gate.close()
