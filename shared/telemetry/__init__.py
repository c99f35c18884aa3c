"""Spans: recorded by the work, left where they are safe, shipped to ClickHouse by somebody else."""
