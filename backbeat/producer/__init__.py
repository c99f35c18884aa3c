"""How programs hand work in: some tasks with their answers, or any number of them through COPY."""
