"""Index sources, write the manifest, and say what is in it: the command `index`, here or on a cluster."""
