"""This process's decoder: one child, kept from file to file."""

import atexit

from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
_decoders: list[tuple[ReadRequest, Sandbox]] = []


def decoder_of(request: ReadRequest) -> Sandbox:
    """Return the decoder that makes what a request asks for; another request's decoder ends."""
    if not _decoders or not (_decoders[0][0] is request or _decoders[0][0] == request):
        _end_decoder()
        _decoders.append((request, Sandbox(DECODER, request.to_json(), request.limits.seconds)))
    return _decoders[0][1]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.pop()[1].close()
