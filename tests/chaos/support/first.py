"""One release: version 1 of `job`."""

from backbeat import single_shot
from tests.chaos.support.work import Answer, Item

job = single_shot("job", version=1, input=Item, output=Answer, tier="small", prompt="{n}", max_output_tokens=80)
