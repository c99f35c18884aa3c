"""The analysts' door: one query, read only and within limits, and tables as files for other engines."""
