"""How much of a prompt a simulated model takes in, so that tiers differ in what they get wrong.

A prompt may carry `(simulated difficulty 0.87)`. A model whose skill is below that reads the first line.
"""

import re

_SKILL = ((r"haiku|luna|nano|mini", 0.82), (r"sonnet|terra", 0.94), (r"opus|sol", 0.985))
_DIFFICULTY = re.compile(r"\(simulated difficulty (0?\.\d+)\)")


def taken_in(prompt: str, model: str) -> str:
    """What this model reads of the prompt; all of it, where nothing says how hard it is."""
    hard = _DIFFICULTY.search(prompt)
    skill = next((one for pattern, one in _SKILL if re.search(pattern, model)), 1.0)
    return prompt.lstrip().partition("\n")[0] if hard and float(hard[1]) > skill else prompt
