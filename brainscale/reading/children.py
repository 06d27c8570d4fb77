"""This process's decoder: one child, kept from file to file."""

import atexit
from dataclasses import replace

from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
_decoders: list[tuple[ReadRequest, Sandbox]] = []


def decoder_of(request: ReadRequest) -> Sandbox:
    """Return the decoder that preprocesses as a request asks for; another's ends. Each question says what to make."""
    settings = replace(request, planes=True, hashes=False)
    if not _decoders or _decoders[0][0] != settings:
        _end_decoder()
        _decoders.append((settings, Sandbox(DECODER, settings.to_json(), request.limits.seconds)))
    return _decoders[0][1]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.pop()[1].close()
