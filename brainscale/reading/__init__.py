"""The bytes of a file to planes."""
