"""Output files and folders, on a local disk and in object stores."""
