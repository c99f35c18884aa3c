"""What the campaigns share: tasks, a rig of real processes, runners that kill themselves, and the books to check."""
