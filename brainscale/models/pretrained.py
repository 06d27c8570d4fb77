"""Find the file of pretrained weights; needs no torch."""

from pathlib import Path

from brainscale.errors import UsageError


def require_weights_file(path: str, network: str) -> None:
    """Check that there is a file with pretrained weights.

    Args:
        path: path of a .safetensors file.
        network: name of the network, for the message.

    Raises:
        UsageError: there is none.
    """
    if not Path(path).is_file():
        raise UsageError(
            f"no weights file {path} for {network}: give the path of a .safetensors file, "
            "or set model.weights to imagenet (downloads) or null (random)"
        )
