from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unmask.config.settings import OptimizerSettings, ScheduleSettings
from unmask.data.training_stream import Cursor
from unmask.errors import ConfigError, DivergedError
from unmask.model.masked_lm import MaskedLM
from unmask.training import loop as loop_module
from unmask.training.loop import Loop
from unmask.training.optimizers import make_optimizers
from unmask.training.parallel import GradientSum
from unmask.training.position import Length, Position
from unmask.training.schedules import learning_rate_factor, mask_rate
from unmask.training.window import Row

LoopMaker = Callable[..., Loop]


@pytest.fixture
def make_loop(load: Callable[..., MaskedLM], shards: Any, loop_of: LoopMaker) -> LoopMaker:
    """Return `make(length, **fields) -> Loop`: a tiny BERT and batches of 100 tokens; rows go to `loop.rows`."""

    def make(length: Length, rate: float = 0.3, batch_tokens: int = 100, **fields: Any) -> Loop:
        changing = {
            "lr_factor": lambda progress, end: 1.0 - progress / 2,
            "mask_rate": lambda progress: mask_rate(rate, rate / 2, progress),
            "micro_batch_tokens": 50,
        }
        return loop_of(load("bert"), shards, batch_tokens, length=length, **(changing | fields))

    return make


# --- how long a run is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "progress"),
    [
        (Length(), 0.0),
        (Length(steps=10), 0.4),
        (Length(epochs=2.0), 0.25),
        (Length(seconds=60), 0.5),
        (Length(steps=10, epochs=2.0, seconds=60), 0.5),
        (Length(steps=2), 2.0),
    ],
)
def test_progress_is_that_of_the_limit_reached_first(length: Length, progress: float) -> None:
    assert length.progress(4, 0.5, 30.0) == progress


def test_a_position_survives_json() -> None:
    position = Position(7, Cursor(2, 31), 12345, 0.1 + 0.2, {"loss": 1 / 3, "steps": 3.0})
    assert Position.from_dict(json.loads(json.dumps(position.to_dict()))) == position


# --- running ------------------------------------------------------------------------------------------------------


def test_a_run_of_steps(make_loop: LoopMaker) -> None:
    seen: list[int] = []
    loop = make_loop(Length(steps=7), after_step=lambda loop: seen.append(loop.position.step))
    loop.run()
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert loop.progress == 1.0
    assert loop.model.model.training
    # The last row is of the one step that is left over.
    assert [row["step"] for row in loop.rows] == [2, 4, 6, 7]  # type: ignore[attr-defined]


def test_the_figures_of_a_row(make_loop: LoopMaker) -> None:
    loop = make_loop(Length(steps=4))
    loop.run()
    first, last = loop.rows  # type: ignore[attr-defined]
    assert set(first) == {
        *("step", "tokens", "seconds", "loss", "accuracy", "learning_rate", "mask_rate", "grad_norm"),
        *("epoch", "tokens_per_second", "wait_share", "progress"),
    }
    # Rates are those of the row's last step, which began at progress 1/4 and 3/4.
    assert [row["learning_rate"] for row in (first, last)] == [pytest.approx(8.75e-4), pytest.approx(6.25e-4)]
    assert [row["mask_rate"] for row in (first, last)] == [pytest.approx(0.2625), pytest.approx(0.1875)]
    assert [row["progress"] for row in (first, last)] == [0.5, 1.0]
    source = loop.stream.source
    assert last["epoch"] == round(loop.position.cursor.used / len(source.sequences), 4)
    assert 300 < last["tokens"] <= 400
    assert 0 <= last["accuracy"] <= 1
    assert 0 <= last["wait_share"] <= 1
    assert json.loads(json.dumps(first)) == first


def test_the_loss_of_a_row_is_the_mean_over_its_targets(make_loop: LoopMaker) -> None:
    """Two steps of different target counts: the mean of their losses would be another figure."""
    frozen = {"lr_factor": lambda progress, end: 0.0, "log_every": 2}
    loop = make_loop(Length(steps=2), **frozen)
    first = loop.plan(Cursor(), 0)
    assert first is not None
    plans = [plan for plan in (first, loop.plan(first.following, 1)) if plan]
    results = [loop.step(plan) for plan in plans]
    steps = iter(results)
    loop.step = lambda plan: next(steps)  # type: ignore[method-assign]
    loop.run()
    counts = [plan.counts[0] for plan in plans]
    assert counts[0] != counts[1]
    wanted = sum(float(r.losses) * count for r, count in zip(results, counts, strict=True)) / sum(counts)
    (row,) = loop.rows  # type: ignore[attr-defined]
    assert row["loss"] == pytest.approx(wanted, rel=1e-9)


def test_a_run_by_the_clock_takes_no_step_beyond_its_limit(make_loop: LoopMaker) -> None:
    """Steps of one second each: their progress is that of the clock when they begin, not one step behind it."""
    seen: list[tuple[float, float]] = []
    loop = make_loop(
        Length(seconds=3.0), lr_factor=lambda progress, end: seen.append((progress, end)) or 1.0, log_every=1
    )

    def spend(seconds: float) -> None:
        loop.position.seconds += 1.0
        loop.position.window["seconds"] += 1.0

    loop._spend = spend  # type: ignore[method-assign]
    loop.run()
    assert loop.position.step == 3
    assert seen == [(0.0, 0.0), pytest.approx((1 / 3, 2 / 3)), pytest.approx((2 / 3, 1.0))]
    rates = [row["mask_rate"] for row in loop.rows]  # type: ignore[attr-defined]
    assert rates == pytest.approx([0.3, 0.3, 0.2])  # of the second step the clock was not known yet


@pytest.mark.parametrize("length", [Length(steps=20), Length(epochs=10.0), Length(seconds=1e9)])
def test_no_step_has_a_learning_rate_of_zero(make_loop: LoopMaker, length: Length) -> None:
    loop = make_loop(
        length,
        log_every=1,
        lr_factor=learning_rate_factor(ScheduleSettings(warmup_share=0.2), "linear"),
        after_step=lambda loop: setattr(loop, "ended", loop.position.step == 5),
    )
    loop.run()
    rates = [row["learning_rate"] for row in loop.rows]  # type: ignore[attr-defined]
    assert min(rates) > 0
    if length.steps:
        assert rates == pytest.approx([1e-3 * share for share in (0.25, 0.5, 0.75, 1, 1)])


def test_epochs_end_where_the_text_ends(make_loop: LoopMaker) -> None:
    """Every sequence is used as often as the epochs say, and no other number of times."""
    used: list[int] = []
    loop = make_loop(Length(epochs=2.0))
    step = loop.step

    def watch(plan: Any) -> Any:
        used.extend(number for batch in plan.batches for number in batch.sequence_ids.tolist())
        return step(plan)

    loop.step = watch  # type: ignore[method-assign]
    loop.run()
    assert loop.position.cursor == Cursor(2, 0)
    assert loop.epochs == 2.0
    assert sorted(used) == sorted([*range(len(loop.stream.source.sequences))] * 2)
    assert loop.position.tokens == 2 * loop.stream.source.tokens


def test_the_clock_ends_a_run(make_loop: LoopMaker) -> None:
    loop = make_loop(Length(seconds=0.2), batch_tokens=64)
    loop.run()
    assert loop.position.seconds >= 0.2
    assert loop.position.step > 1


def test_time_between_steps_is_no_training_time(make_loop: LoopMaker) -> None:
    import time

    loop = make_loop(Length(steps=3), after_step=lambda loop: time.sleep(0.1))
    began = time.perf_counter()
    loop.run()
    assert loop.position.seconds < time.perf_counter() - began - 0.29


def test_the_step_is_the_same_for_any_micro_batch(make_loop: LoopMaker) -> None:
    losses = []
    for tokens in (10, 33, 1000):
        loop = make_loop(Length(steps=3), micro_batch_tokens=tokens, log_every=1)
        loop.run()
        losses.append([row["loss"] for row in loop.rows])  # type: ignore[attr-defined]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_two_runs_are_the_same_to_the_last_bit(make_loop: LoopMaker) -> None:
    ends = []
    for _ in range(2):
        loop = make_loop(Length(steps=4))
        loop.run()
        ends.append(torch.cat([weight.detach().reshape(-1) for weight in loop.model.model.parameters()]))
    assert torch.equal(*ends)


def test_dropout_depends_on_seed_step_and_process_alone(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else draws random numbers changes nothing; another seed does, and each process drops on its own."""

    def weights(seed: int, draws: int, rank: int = 0) -> torch.Tensor:
        loop = make_loop(Length(steps=3), seed=seed, after_step=lambda loop: torch.rand(draws))
        for module in loop.model.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        monkeypatch.setattr(loop.world, "rank", rank)
        for plan in (loop.plan(Cursor(), 0), loop.plan(Cursor(0, 9), 1)):
            assert plan is not None
            loop.step(plan)
            torch.rand(draws)
        return torch.cat([weight.detach().reshape(-1) for weight in loop.model.model.parameters()])

    first = weights(1, 0)
    assert torch.equal(first, weights(1, 7))
    assert not torch.equal(first, weights(2, 0))
    assert not torch.equal(first, weights(1, 0, rank=1))


def test_a_step_without_targets_moves_nothing_and_is_no_number_lost(make_loop: LoopMaker) -> None:
    loop = make_loop(Length(steps=2), rate=1e-15)
    before = [weight.clone() for weight in loop.model.model.parameters()]
    loop.run()
    (row,) = loop.rows  # type: ignore[attr-defined]
    assert (row["loss"], row["accuracy"], row["grad_norm"]) == (None, None, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, loop.model.model.parameters(), strict=True))


def test_the_gradient_is_clipped(make_loop: LoopMaker) -> None:
    """Fifty clipped gradients move AdamW's second moment by what their norm allows, and by no more."""
    loop = make_loop(Length(steps=50), clip_norm=1e-3, log_every=1)
    loop.run()
    assert all(row["grad_norm"] > 0.01 for row in loop.rows)  # type: ignore[attr-defined]
    squares = sum(float(state["exp_avg_sq"].sum()) for state in loop.optimizers[0].state.values())
    beta = loop.optimizers[0].param_groups[0]["betas"][1]
    assert squares == pytest.approx((1 - beta**50) * 1e-6, rel=1e-3)


def break_(loop: Loop) -> None:
    loop.model.model.get_output_embeddings().bias.data.fill_(float("nan"))


def test_losses_that_are_no_number_end_the_run_before_the_weights_move(make_loop: LoopMaker) -> None:
    told: list[str] = []
    loop = make_loop(Length(steps=9), after_step=break_, log=told.append)
    with pytest.raises(DivergedError, match=r"step 6: the loss is nan; 5 steps in a row were not applied"):
        loop.run()
    weights = loop.model.model.base_model.state_dict().values()
    assert all(bool(tensor.isfinite().all()) for tensor in weights)
    skipped = [row for row in loop.rows if "skipped" in row]  # type: ignore[attr-defined]
    assert [(row["step"], row["skipped"]) for row in skipped] == [(n, "the loss is nan") for n in range(2, 7)]
    assert "step 2: the loss is nan; the step was not applied. Its documents: " in told[0]


def spoiled(loop: Loop, *steps: int) -> Loop:
    """Let the gradient of some steps, the first being 0, be infinite."""

    def watch(number: int) -> None:
        if number in steps:
            next(weight for weight in loop.model.model.parameters() if weight.grad is not None).grad.fill_(
                math.inf
            )

    loop.staged_start.mask = watch  # type: ignore[method-assign]
    return loop


def test_a_step_with_a_gradient_that_is_no_number_is_passed_over(make_loop: LoopMaker) -> None:
    """The run goes on behind it, the weights as they were, and says which documents it was."""
    plans = [make_loop(Length(steps=4)).plan(Cursor(), 0)]
    at: list[torch.Tensor] = []

    def remember(loop: Loop) -> None:
        at.append(
            torch.cat([weight.detach().reshape(-1).clone() for weight in loop.model.model.parameters()])
        )

    loop = spoiled(make_loop(Length(steps=4), after_step=remember), 1)
    loop.run()
    assert torch.equal(at[0], at[1])
    assert not torch.equal(at[1], at[2])
    skipped, first, last = loop.rows  # type: ignore[attr-defined]
    assert (first["step"], first["skipped_steps"], last["step"]) == (2, 1, 4)
    assert "skipped_steps" not in last
    assert (skipped["step"], skipped["skipped"]) == (2, "the gradient's norm is inf")
    following = loop.plan(plans[0].following, 1)  # type: ignore[union-attr]
    assert following is not None
    which, _, _ = loop.stream.source.sequences.locate(following.sequences)
    assert skipped["documents"] == sorted({*loop.stream.source.documents[which].tolist()})
    assert loop.position.skipped_steps == 0
    assert loop.position.tokens == last["tokens"] > 300


def test_a_row_of_steps_none_of_which_was_applied_is_not_written(make_loop: LoopMaker) -> None:
    loop = spoiled(make_loop(Length(steps=5)), 2, 3)
    loop.run()
    assert [row["step"] for row in loop.rows if "loss" in row] == [2, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("skips", [False, True])
def test_a_spike_is_logged_and_skipped_when_that_is_asked_for(make_loop: LoopMaker, skips: bool) -> None:
    trend = {"count": 100.0, "mean": 1.0, "variance": 0.01}  # any loss of this model is far above
    loop = make_loop(Length(steps=1), position=Position(trend=dict(trend)), skip_spikes=skips)
    before = [weight.clone() for weight in loop.model.model.parameters()]
    loop.run()
    same = all(torch.equal(a, b) for a, b in zip(before, loop.model.model.parameters(), strict=True))
    assert same is skips
    (row,) = loop.rows  # type: ignore[attr-defined]
    assert "sigma above its running mean" in row["skipped"] if skips else row["spike"] > 6
    assert loop.position.trend["mean"] == pytest.approx(1.012)  # a spike counts as one of six sigma


def test_an_ordinary_run_has_no_spikes(make_loop: LoopMaker) -> None:
    loop = make_loop(Length(steps=70))
    loop.run()
    assert loop.position.trend["count"] == 70
    assert not any("spike" in row for row in loop.rows)  # type: ignore[attr-defined]


# --- memory -------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
    """Let micro-batches of more tokens than `most` fail, after the gradient of those before them."""
    whole = loop_module.step_gradients

    def compute(summed: GradientSum, batches: list[Any], counts: Any) -> Any:
        for number, batch in enumerate(batches):
            if batch.tokens > most:
                whole(summed, batches[:number], counts)
                raise error
        return whole(summed, batches, counts)

    monkeypatch.setattr(loop_module, "step_gradients", compute)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain = make_loop(Length(steps=3), micro_batch_tokens=25, log_every=1)
    plain.run()
    short_of_memory(monkeypatch, 45, error)
    told: list[str] = []
    loop = make_loop(Length(steps=3), micro_batch_tokens=100, log_every=1, log=told.append)
    loop.run()
    losses = [[row["loss"] for row in each.rows] for each in (loop, plain)]  # type: ignore[attr-defined]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert 25 <= loop.micro_batch_tokens <= 50
    assert told[0].startswith("step 1: out of memory; computing 50 tokens at once from here on")
    assert len(told) <= 2  # a step made ready before is split anew, and not once more than it has to


def test_one_sequence_that_does_not_fit_is_said(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 2, MemoryError())
    with pytest.raises(
        ConfigError, match=r"not enough memory for a single sequence of \d+ tokens \(step 1\)"
    ):
        make_loop(Length(steps=3)).run()


def test_other_faults_are_no_lack_of_memory(make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 2, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make_loop(Length(steps=3)).run()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the figures of a step when the next one is computed, as on a GPU."""
    monkeypatch.setattr(Loop, "_reads_at_once", False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_looked_at_late_changes_no_weight_either(
    make_loop: LoopMaker, request: pytest.FixtureRequest, optimizer: str
) -> None:
    """The optimizers leave a step out by themselves; weights, their state from the next step on, and rows are the same."""

    def train() -> Loop:
        loop = make_loop(Length(steps=7), log_every=3)
        settings = OptimizerSettings(weight_decay=0.1)
        loop.optimizers = make_optimizers(loop.model.model, settings, optimizer, 1e-3)
        spoiled(loop, 1, 5).run()
        return loop

    at_once = train()
    request.getfixturevalue("late")
    late = train()
    for one, other in zip(at_once.model.model.parameters(), late.model.model.parameters(), strict=True):
        assert torch.equal(one, other)
    timed = ("seconds", "tokens_per_second", "wait_share")
    rows = [
        [{key: value for key, value in row.items() if key not in timed} for row in loop.rows]  # type: ignore[attr-defined]
        for loop in (at_once, late)
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [2, 3, 6, 6, 7]


@pytest.mark.usefixtures("late")
def test_a_run_that_is_looked_at_late_ends_after_as_many_skipped_steps(make_loop: LoopMaker) -> None:
    loop = make_loop(Length(steps=20), after_step=break_, log_every=50)
    with pytest.raises(DivergedError, match=r"step 6: the loss is nan; 5 steps in a row were not applied"):
        loop.run()
    assert loop.position.step == 7
    weights = loop.model.model.base_model.state_dict().values()
    assert all(bool(tensor.isfinite().all()) for tensor in weights)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_going_on_from_a_position_is_the_undisturbed_run(make_loop: LoopMaker, stop: int) -> None:
    """The cursor, the unlogged sums and the counts are all there is beside weights and optimizer."""

    class Stopped(Exception):
        pass

    def halt(loop: Loop) -> None:
        if loop.position.step == stop:
            loop.settle()
            raise Stopped

    whole = make_loop(Length(steps=7), log_every=3)
    whole.run()
    part = make_loop(Length(steps=7), log_every=3, after_step=halt)
    with pytest.raises(Stopped):
        part.run()
    part.position = Position.from_dict(json.loads(json.dumps(part.position.to_dict())))
    part.after_step = lambda loop: None
    part.run()

    def figures(loop: Loop) -> list[Row]:
        timed = ("seconds", "tokens_per_second", "wait_share")
        rows = loop.rows  # type: ignore[attr-defined]
        return [{key: value for key, value in row.items() if key not in timed} for row in rows]

    assert figures(part) == figures(whole)
    assert [row["step"] for row in figures(whole)] == [3, 6, 7]
    assert part.position.tokens == whole.position.tokens
