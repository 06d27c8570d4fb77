"""The command line. Modules with commands import what is slow to load only when a command runs."""
