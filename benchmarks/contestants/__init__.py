"""The queues that `benchmarks.queue` compares, each run in a process of its own."""
