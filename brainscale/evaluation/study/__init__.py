"""Studies: many models in one file, their predictions in one table, and a page made from that table alone."""
