"""The next release: version 2 of `job` alone."""

from backbeat import single_shot
from tests.chaos.support.work import Answer, Item

job = single_shot("job", version=2, input=Item, output=Answer, tier="small", prompt="New: {n}", max_output_tokens=80)
