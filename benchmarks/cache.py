"""What the vendors' caches save an agent: 50 steps over 100,000 tokens of context, against the same without a cache.

Real SDKs against the simulated provider, whose cache follows the vendors' documented rules; prices are those of the
day. The article says that with caching a 50-step agent costs about what a 5-step one does in context tokens: the
ratio of the two is printed as it is.
"""

import asyncio
import tempfile
from decimal import Decimal
from pathlib import Path

from benchmarks.bench import finish, say
from shared import clock
from shared.config import ProviderConfig
from shared.domain.usage import Usage
from shared.llm import prices
from shared.llm.protocol import Request, make_provider
from tests.support.simulated import service

STEPS, FEW = 50, 5
CONTEXT = 100_000  # tokens at the last step
SYSTEM = 20_000  # of them: goal, tools, documents
MODELS = {"anthropic": ("claude-sonnet-4-6", "/anthropic"), "openai": ("gpt-6-luna", "/openai/v1")}
LIMIT = 0.2
WORD = "observed "


async def _session(vendor: str, url: str, steps: int) -> tuple[Decimal, Decimal, Usage]:
    """USD of the input with and without the cache, and the usage of all steps."""
    model, path = MODELS[vendor]
    provider = make_provider(ProviderConfig(vendor, url + path, "simulated", simulated=True))
    paid, plain, total = Decimal(), Decimal(), Usage()
    grown = (CONTEXT - SYSTEM) // STEPS
    system, prompt = f"{vendor} {steps} " + WORD * SYSTEM, "Goal: find out.\n"
    for step in range(steps):
        prompt += f"Step {step}: " + WORD * grown
        request = Request(model=model, prompt=prompt, system=system, max_output_tokens=20, timeout=60.0, grows=True)
        usage = (await provider.send(request)).usage
        at, without = clock.wall(), Usage(uncached=usage.input)
        bare = Usage(usage.uncached, usage.cache_read, usage.cache_write)
        paid += prices.cost(vendor, model, bare, at).usd or Decimal("NaN")
        plain += prices.cost(vendor, model, without, at).usd or Decimal("NaN")
        total = Usage(
            total.uncached + usage.uncached, total.cache_read + usage.cache_read, total.cache_write + usage.cache_write
        )
    await provider.aclose()
    return paid, plain, total


def main() -> None:
    """Measure and print."""
    figures, targets = {}, []
    with (
        tempfile.TemporaryDirectory() as space,
        service("provider", Path(space) / "calls.jsonl", "--latency", "0") as provider,
    ):
        for vendor, (model, _) in MODELS.items():
            paid, plain, usage = asyncio.run(_session(vendor, provider.url, STEPS))
            few, few_plain, _ = asyncio.run(_session(vendor, provider.url, FEW))
            ratio = round(float(paid / plain), 4)
            figures[vendor] = {
                "model": model,
                "cached_usd": float(paid),
                "uncached_usd": float(plain),
                "cached_to_uncached": ratio,
                "hit_ratio": round(usage.cache_read / usage.input, 4),
                "50_to_5_steps_cached": round(float(paid / few), 2),
                "50_to_5_steps_uncached": round(float(plain / few_plain), 2),
                "article_50_to_5": "about 1",
            }
            say(vendor=vendor, **figures[vendor])
            targets.append((f"{vendor}_cached_to_uncached", ratio, "<=", LIMIT))
    finish("cache", figures, targets, "anthropic", "openai", "genai-prices")


if __name__ == "__main__":
    main()
