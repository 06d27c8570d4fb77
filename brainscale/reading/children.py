"""This process's decoder: one child, kept from file to file."""

import atexit
import json
from dataclasses import replace

from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
_decoders: dict[str, Sandbox] = {}  # by its settings


def decoder_of(request: ReadRequest) -> Sandbox:
    """Return the decoder that preprocesses as a request asks for; another's ends. Each question says what to make."""
    settings = replace(request, planes=True, hashes=False).to_json()
    key = json.dumps(settings)
    if key not in _decoders:
        _end_decoder()
        _decoders[key] = Sandbox(DECODER, settings, request.limits.seconds)
    return _decoders[key]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.popitem()[1].close()
