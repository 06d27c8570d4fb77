"""What a network asks of a processor."""
