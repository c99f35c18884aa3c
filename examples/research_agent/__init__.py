"""An agent that answers a question from a small library, step by step."""
