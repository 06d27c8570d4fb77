"""Tests, in the rooms of what they test."""

import os

# Several test processes share the cores, and threads that wait for each other there take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
