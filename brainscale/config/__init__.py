"""What a run is made of: sections, files and their explanation."""
