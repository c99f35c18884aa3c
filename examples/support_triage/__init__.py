"""Support tickets sorted by one model call each, and which tier is good enough for that."""
