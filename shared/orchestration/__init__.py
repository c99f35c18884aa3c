"""What the helpers that authors use in workflows share with the worker that runs them. Pure: no input, no output."""
