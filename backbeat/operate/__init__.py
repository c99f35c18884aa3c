"""What people ask of a running system and do to it; the workers need none of it."""
