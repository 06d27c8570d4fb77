"""The version of brainscale, as in pyproject.toml too, and when this process loaded it."""

import time

__version__ = "0.1.0"
LOADED_AT = time.time()
"""Seconds since 1970 when this process loaded the first module: it may not run code that was written later."""
