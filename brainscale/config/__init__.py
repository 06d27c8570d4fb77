"""The configuration of a run: its sections, the files it is read from, and explanations of errors."""
