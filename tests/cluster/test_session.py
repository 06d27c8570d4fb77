"""What Ray's own processes say never reaches standard output, where results are."""

import pytest
from ray._private import worker as ray_worker

from brainscale.cluster import session


def test_the_raylet_speaks_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "print_to_stdstream", ray_worker.print_to_stdstream)  # put back at the end
    session.quiet()
    for line in ("WARNING: 8 PYTHON worker processes have been started on node: n", "a node is low on memory"):
        ray_worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "low on memory" in said.err
    assert "PYTHON" not in said.err
