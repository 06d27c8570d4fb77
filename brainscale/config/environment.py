"""What the environment of this process says: the Ray that it shall use."""

import os


def surrounding_ray() -> str | None:
    """Return the address in `RAY_ADDRESS`, as in a job or on nodes that a scheduler started; None without one."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address
