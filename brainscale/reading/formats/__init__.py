"""Encoded bytes → frames, one module for each family of formats; the content decides, not the suffix."""
