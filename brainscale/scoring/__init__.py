"""Files to scored Parquet parts."""
