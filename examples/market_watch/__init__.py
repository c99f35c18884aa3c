"""A parent that plans, children that work at the same time, and a report of what they found."""
