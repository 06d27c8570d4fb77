"""The commands, by what they work on; heavy imports wait until one runs."""
