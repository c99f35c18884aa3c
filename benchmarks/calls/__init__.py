"""What benchmarks/tick.py runs: a far side that answers after a while, loops that ask it, and the task that does."""
