"""How ``unmask bench`` looks on a terminal."""

from __future__ import annotations

from unmask.benchmark.bench import Bench
from unmask.cli.terminal import Page


def draw_bench(page: Page, bench: Bench) -> None:
    """Draw what was measured, the machine first."""
    machine = bench.machine["machine"]
    where = machine["gpu"] if bench.device == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    page.say(f"{bench.model}, {bench.parameters / 1e6:.1f} million weights, on {where}")
    page.say("")
    training, preparation = bench.training, bench.preparation
    page.table(
        ["", "rate", ""],
        [
            *(
                [f"matrix products, {rate.precision}", f"{rate.teraflops:.2f} TFLOP/s", _shape(rate.shape)]
                for rate in bench.ceilings.values()
            ),
            [f"training, {bench.precision}", _per_second(training.tokens_per_second), _step(bench)],
            ["packing and masking", _per_second(bench.masking_tokens_per_second), "one core"],
            [
                "preparing text",
                _per_second(preparation.tokens_per_second),
                f"{preparation.megabytes_per_second:.1f} MB/s, {preparation.share:.0%} of tokenising alone",
            ],
        ],
        left=(0, 2),
    )
    page.say(
        f"training reaches {training.share:.0%} of the {bench.precision} matrix products: "
        f"{training.flops_per_token / 1e6:.0f} million operations a token, {training.predicted:.1%} of the tokens "
        f"predicted, {training.wait_share:.1%} of the time waiting for data"
    )


def _per_second(rate: float) -> str:
    return f"{rate:,.0f} tok/s"


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(side) for side in shape)


def _step(bench: Bench) -> str:
    return f"{bench.training.seconds_per_step:.3f} s a step of {bench.batch_tokens:,} tokens"
