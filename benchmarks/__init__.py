"""One file a claim. `make bench BENCH=<name>` prints JSON lines; the last one holds the figures and their targets."""
