"""What is counted; that it reaches Prometheus is in integration/."""

from brainscale.cluster.telemetry import count_codes


def test_what_is_no_image_is_neither_scored_nor_an_error() -> None:
    assert count_codes([None, "truncated", "no_pixels", None, "truncated", "empty_archive", "not_finite"]) == (
        2,
        {"truncated": 2, "not_finite": 1},
    )
    assert count_codes([]) == (0, {})
    assert count_codes(["truncated"]) == (0, {"truncated": 1})
