"""Files → samples: sources, archives, formats, and the sandbox in which files are decoded."""
