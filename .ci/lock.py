"""Print the packages that this environment holds as a lock file that pip reads."""

import sys
from importlib import metadata

OURS = {"brainscale", "pip", "wheel"}
LINUX_X86 = ("nvidia-", "cuda-", "triton")  # torch's CUDA parts; torch asks for them on Linux x86_64 only

HEAD = "# Every package, pinned; made by `make lock` from a working .venv. pip install -r requirements.lock\n"


def main() -> None:
    """Write the lock to standard output."""
    pins = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    sys.stdout.write(HEAD)
    for name, version in sorted(pins.items()):
        if name not in OURS:
            marker = (
                ' ; platform_system == "Linux" and platform_machine == "x86_64"' if name.startswith(LINUX_X86) else ""
            )
            sys.stdout.write(f"{name}=={version}{marker}\n")


if __name__ == "__main__":
    main()
