"""The promises for every objective, through one suite: a new one is an entry in `OBJECTIVES`."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import varlen

import unmask
from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.masking.custom import CustomUnits
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import MaskingPlan, plan_of
from unmask.data.packing import Packed
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import ConfigError, DivergedError
from unmask.model import attention
from unmask.model.attention import packed_attention
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import PackedLayout
from unmask.objectives import clm
from unmask.objectives.clm import CausalDetour, CausalLanguageModelling
from unmask.objectives.contrastive import ContrastiveLearning
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, Objective
from unmask.objectives.pairs import NextSentencePrediction, SentenceOrderPrediction
from unmask.objectives.rtd import ReplacedTokenDetection
from unmask.run_folder import GENERATOR
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]


class WithParity(MaskedLanguageModelling):
    """Two losses and a head of its own: masked tokens, and whether a sequence has an even number of tokens."""

    name = "parity"
    loss_names = ("mlm", "parity")
    loss_weights = (1.0, 0.5)
    has_answers = True

    def prepare(self, model: MaskedLM, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.attach(parity=nn.Linear(model.hidden_size, 2))

    def batch(self, packed: Packed, plan: MaskingPlan, key: MaskKey, rate: float) -> Batch:
        even = np.diff(packed.cu_seqlens) % 2
        return replace(super().batch(packed, plan, key, rate), of_sequences={"even": even})

    def counts(self, batch: Batch) -> tuple[int, ...]:
        return len(batch.target_ids), len(batch.of_sequences.get("even", ()))

    def losses(self, model: MaskedLM, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        logits, labels = self._logits(model, batch)
        value = nn.functional.cross_entropy(logits, labels, reduction="sum") / divisors[1]
        correct = (logits.argmax(-1) == labels).sum()
        return (*super().losses(model, batch, divisors), Loss(value, correct))

    def _logits(self, model: MaskedLM, batch: Batch) -> tuple[Tensor, Tensor]:
        first = torch.from_numpy(batch.cu_seqlens[:-1].astype(np.int64))
        labels = torch.from_numpy(batch.of_sequences["even"].astype(np.int64))
        return model.attached["parity"](model.encode(batch)[first].float()), labels

    def answers(self, model: MaskedLM, batch: Batch) -> np.ndarray:
        logits, labels = self._logits(model, batch)
        return (logits.argmax(-1) == labels).double()[:, None].numpy()

    def metrics(self, answers: np.ndarray) -> dict[str, float]:
        return {"parity_accuracy": float(answers.mean())}


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "mlm": MaskedLanguageModelling,
    "clm": CausalLanguageModelling,
    "nsp": NextSentencePrediction,
    "sop": SentenceOrderPrediction,
    "rtd": ReplacedTokenDetection,
    "contrastive": ContrastiveLearning,
    "several losses": WithParity,
}
"""Every objective of one stage."""
ARCHITECTURES = {"rtd": "electra"}
"""What an objective is tried with, where it is not BERT."""
RUNS: dict[str, dict[str, Any]] = {
    "mlm": {"objective": "mlm"},
    "clm": {"objective": "clm", "settings": {"train.detour": 0.6}},
    "nsp": {"objective": "nsp"},
    "sop": {"objective": "sop"},
    "rtd": {"objective": "rtd"},
    "contrastive": {"objective": "contrastive"},
    "several losses": {"objective": WithParity()},
}
"""Arguments of `unmask.train` for every objective."""


def prepared(load: Load, name: str, objective: Objective) -> MaskedLM:
    model = objective.trained_model(load(ARCHITECTURES.get(name, "bert")), 0)
    objective.prepare(model, 0)
    model.model.train()
    return model


def stream_of(model: MaskedLM, shards: Any, objective: Objective) -> TrainingStream:
    source = TextSource(shards, np.arange(len(shards)), model.vocabulary, MaskingSettings(rate=0.3), 64)
    return TrainingStream(objective.source(source), 200, 0)


def step(
    model: MaskedLM, objective: Objective, shards: Any, parts: int, world: World | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses, the targets predicted and the gradient of one step, by so many micro-batches of each process."""
    world = world or World()
    stream = stream_of(model, shards, objective)
    numbers, _ = stream.take(Cursor())
    batches = stream.micro_batches(Cursor(), numbers, 0.3, parts, world.rank, world.size, objective.batch)
    counts = [objective.counts(batch) for batch in batches]
    divisors = world.sum_(torch.tensor(counts).sum(0)).tolist()
    summed = GradientSum(model, world)
    summed.begin(objective)
    model.model.zero_grad(set_to_none=True)
    losses, correct = step_gradients(summed, batches, divisors)
    weights = [weight for weight in model.model.parameters() if weight.grad is not None]
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return world.sum_(losses.double()), world.sum_(correct), gradient


def assert_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=0)
    assert torch.equal(found[1], wanted[1])
    assert (found[2] - wanted[2]).norm() < 2e-6 * wanted[2].norm()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_same_for_any_split(name: str, load: Load, shards: Any) -> None:
    objective = OBJECTIVES[name]()
    model = prepared(load, name, objective)
    whole = step(model, objective, shards, 1)
    assert bool((whole[0] > 0).all())
    for parts in (3, 50):
        assert_same(step(model, objective, shards, parts), whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_draws_depend_on_the_sequence_alone(name: str, load: Load, shards: Any) -> None:
    """Each sequence by itself, in any order, is what it is in the whole batch."""
    objective = OBJECTIVES[name]()
    source = stream_of(prepared(load, name, objective), shards, objective).source
    numbers = source.by_length(np.arange(len(source.sequences)))
    whole = source.batch(numbers, MaskKey(3, 1), 0.3, make=objective.batch)
    for place in np.random.default_rng(0).permutation(len(numbers))[:15]:
        alone = source.batch(numbers[[place]], MaskKey(3, 1), 0.3, make=objective.batch)
        begin, end = whole.cu_seqlens[place : place + 2]
        inside = (whole.target_index >= begin) & (whole.target_index < end)
        assert np.array_equal(alone.input_ids, whole.input_ids[begin:end])
        assert np.array_equal(alone.target_index, whole.target_index[inside] - begin)
        assert np.array_equal(alone.target_ids, whole.target_ids[inside])
        for key, values in whole.of_tokens.items():
            assert np.array_equal(alone.of_tokens[key], values[begin:end])
        for key, values in whole.of_sequences.items():
            assert np.array_equal(alone.of_sequences[key], values[[place]])
        for key, values in whole.of_targets.items():
            assert np.array_equal(alone.of_targets[key], values[inside])


def shared(rank: int, port: int, load: Load, shards: Any, out: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world = World.join(torch.device("cpu"))
    found = {}
    for name, make in OBJECTIVES.items():
        objective = make()
        found[name] = step(prepared(load, name, objective), objective, shards, 3, world)
    if rank == 0:
        torch.save(found, out)
    world.wait()
    os._exit(0)


def test_two_processes_compute_the_step_of_one(load: Load, shards: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, out = multiprocessing.get_context("fork"), tmp_path / "found.pt"
    for name in OBJECTIVES:
        load(ARCHITECTURES.get(name, "bert"))  # made once, not by each process
    workers = [context.Process(target=shared, args=(rank, port, load, shards, out)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    found = torch.load(out)
    for name, make in OBJECTIVES.items():
        objective = make()
        assert_same(found[name], step(prepared(load, name, objective), objective, shards, 1))


# --- whole runs ---------------------------------------------------------------------------------------------------

STEPS = 8
SETTINGS = {
    "train.max_steps": STEPS,
    "train.save_every": 3,
    "train.keep_last": 9,
    "train.eval_every": 4,
    "train.log_every": 2,
    "train.batch_tokens": 200,
    "train.export_best": False,
    "data.max_length": 32,
    "data.documents": "line",
    "data.heldout_share": 0.1,
    "model.dropout": 0.1,
}


def run(text: Sequence[str], model: Path, out: Path, name: str, **more: Any) -> unmask.RunResult:
    given = dict(RUNS[name])
    settings = SETTINGS | given.pop("settings", {})
    arguments: dict[str, Any] = {"precision": "fp32", "device": "cpu", "patience": 0, "progress": False}
    if more.get("resume"):
        return unmask.train(out=out, progress=False, **given, **more)
    return unmask.train(list(text), model=model, out=out, settings=settings, **arguments, **given, **more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return `get(name)`: the finished run of an objective, made once."""
    made: dict[str, unmask.RunResult] = {}
    words = "river boat letter winter telescope engineer unripe dictionary mountains".split()
    text = [" ".join(np.random.default_rng(n).choice(words, 3 + n % 9)) for n in range(120)]

    def get(name: str) -> unmask.RunResult:
        if name not in made:
            out = tmp_path_factory.mktemp("runs") / name.replace(" ", "-")
            made[name] = run(text, checkpoint(ARCHITECTURES.get(name, "bert")), out, name)
        return made[name]

    return get


def rows_of(folder: unmask.RunFolder) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    timed = {"seconds", "tokens_per_second", "wait_share"}
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_same_weights_and_metrics(
    name: str, runs: Callable[[str], Any], tmp_path: Path
) -> None:
    """From step 3, before the detour of `clm` ends."""
    whole = runs(name)
    other = tmp_path / "other"
    shutil.copytree(whole.folder.root, other)
    again = run((), Path(), other, name, resume=True, checkpoint=other / "checkpoints" / "step-00000003")
    one, two = (each.folder.model / "model.safetensors" for each in (whole, again))
    assert one.read_bytes() == two.read_bytes()
    assert rows_of(again.folder) == rows_of(whole.folder)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_an_ordinary_encoder(name: str, runs: Callable[[str], Any]) -> None:
    from transformers import AutoModelForMaskedLM

    folder = runs(name).folder.model
    if name == "rtd":  # the discriminator has no LM head
        folder /= GENERATOR
    raw, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "mismatched_keys"))
    pair = {key for key in info["unexpected_keys"] if ".pooler." in key or "seq_relationship" in key}
    assert set(info["unexpected_keys"]) == pair
    assert bool(pair) == (name in ("nsp", "sop"))
    assert not getattr(raw.config, "is_decoder", False)
    ids = torch.tensor([[2, 30, 31, 32, 3]])
    other = ids.clone()
    other[0, 3] = 40
    with torch.no_grad():
        assert not torch.allclose(raw.eval()(ids).logits[0, 1], raw(other).logits[0, 1])


def test_rows_say_which_objective_a_step_had(runs: Callable[[str], Any]) -> None:
    """A row ends where the detour does: after step 5, the first at 60% of 8 steps."""
    rows = [row for row in rows_of(runs("clm").folder) if "loss" in row]
    assert [(row["step"], row["objective"]) for row in rows] == [
        (2, "clm"),
        (4, "clm"),
        (5, "clm"),
        (6, "mlm"),
        (8, "mlm"),
    ]
    assert {row["mask_rate"] for row in rows[:3]} == {0.0}
    assert not any("objective" in row for row in rows_of(runs("mlm").folder))


def test_several_losses_are_named_and_answers_evaluated(runs: Callable[[str], Any]) -> None:
    rows = rows_of(runs("several losses").folder)
    logged = [row for row in rows if "loss" in row]
    for row in logged:
        assert row["loss"] == pytest.approx(row["mlm_loss"] + 0.5 * row["parity_loss"])
    assert all(0 <= row["eval_parity_accuracy"] <= 1 for row in rows if "eval_loss" in row)
    assert set(runs("several losses").evaluation["objective"]) == {"parity_accuracy"}


def test_a_resume_without_its_objective_is_refused(runs: Callable[[str], Any]) -> None:
    folder = runs("several losses").folder.root
    with pytest.raises(ConfigError, match=r"the objective of this run is one of its own .* pass it"):
        unmask.train(out=folder, resume=True, progress=False)

    class Another(WithParity):
        pass

    with pytest.raises(
        ConfigError, match=r"^cannot resume: objective was 'custom \(.*WithParity\)' and is now"
    ):
        unmask.train(out=folder, resume=True, objective=Another(), progress=False)


# --- the causal detour --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert", "modernbert", "eurobert"])
@pytest.mark.parametrize("lengths", [[50, 50, 9], [40]])
@pytest.mark.parametrize("way", ["training", "inference", "dropout"])
def test_a_later_token_changes_no_earlier_state(
    architecture: str, lengths: list[int], way: str, load: Load, make_batch: Any
) -> None:
    """For documents of one length and of several, with and without a gradient, and where dropout needs torch's attention."""
    model = load(architecture)
    batch = make_batch(model.vocabulary, lengths, rate=0.0)
    other = batch.input_ids.copy()
    other[20] = model.vocabulary.replacements[-1]
    changed = replace(batch, input_ids=other)

    def states(batch: Batch) -> Tensor:
        with torch.set_grad_enabled(way != "inference"):
            return model.encode(batch, causal=True).detach()

    with pytest.MonkeyPatch.context() as patch:
        if way == "dropout":  # any dropout takes this path; one of zero can be compared
            patch.setattr(attention, "_LONGEST_STACK", 0)
        one, two = states(batch), states(changed)
        assert torch.equal(one[:20], two[:20])
        assert not torch.allclose(one[20 : lengths[0]], two[20 : lengths[0]])
        assert torch.equal(one[lengths[0] :], two[lengths[0] :])  # of the other documents
    torch.testing.assert_close(one, states(batch), rtol=1e-4, atol=1e-5)


def test_the_kernel_is_told_to_look_back_only(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = []

    def watch(query: Tensor, *_: Any, window_size: tuple[int, int], **__: Any) -> Tensor:
        windows.append(window_size)
        return query

    monkeypatch.setattr(varlen, "varlen_attn", watch)
    query = torch.empty(1, 2, 12, 8, dtype=torch.bfloat16, device="meta")
    for causal, window in ((True, None), (True, 5), (False, 5), (False, None)):
        layout = PackedLayout.of(np.array([0, 8, 12]), query.device, causal=causal)
        packed_attention(nn.Identity(), query, query, query, None, layout=layout, sliding_window=window)
    assert windows == [(-1, 0), (4, 0), (4, 4), (-1, -1)]


def test_logits_in_blocks_give_the_same_gradient(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = CausalLanguageModelling()
    model = load("modernbert")
    objective.prepare(model, 0)
    model.model.train()
    draw = np.random.default_rng(0)
    cuts = np.array([0, 60, 110, 115])
    ids = draw.choice(model.vocabulary.replacements, cuts[-1]).astype(np.int64)
    packed = Packed(ids, cuts, np.arange(3, dtype=np.uint64), np.zeros(3, dtype=np.int64))
    plan = plan_of(model.vocabulary, MaskingSettings())
    batch = objective.batch(packed, plan, MaskKey(0, 0), 0.0)

    def gradient() -> tuple[Tensor, Tensor, Tensor]:
        model.model.zero_grad(set_to_none=True)
        losses, correct = step_gradients(summed, [batch], objective.counts(batch))
        return (
            losses,
            correct,
            torch.cat([w.grad.flatten() for w in model.model.parameters() if w.grad is not None]),
        )

    summed = GradientSum(model)
    summed.begin(objective)
    whole = gradient()
    monkeypatch.setattr(clm, "_BLOCK", 13 * model.vocabulary.size)
    assert_same(gradient(), whole)


def test_next_tokens_are_predicted_and_no_special_ones(load: Load, shards: Any) -> None:
    model = load("bert")
    source = stream_of(model, shards, MaskedLanguageModelling()).source
    batch = source.batch(np.arange(5), MaskKey(0, 0), 0.3, make=CausalLanguageModelling().batch)
    assert np.array_equal(batch.input_ids[batch.target_index + 1], batch.target_ids)
    assert not model.vocabulary.special[batch.target_ids].any()
    special = model.vocabulary.special[batch.input_ids]
    assert len(batch.target_ids) == (~special).sum()


def test_what_cannot_pack_is_refused(load: Load) -> None:
    with pytest.raises(
        ConfigError, match="--objective clm needs a model whose documents can be packed"
    ) as error:
        CausalLanguageModelling().prepare(load("deberta-v2"), 0)
    assert "\n" not in str(error.value)


def test_a_detour_is_never_taken_twice() -> None:
    """By the clock, or where a resume makes a run longer, the progress of a run may fall."""
    detour = CausalDetour(0.5)
    assert [detour.stage(progress) for progress in (0.0, 0.49, 0.5, 1.2)] == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"^train\.detour is a share of train\.objective clm"):
        unmask.load_config(None, ("train.detour=0.5",))


# --- a masking strategy of one's own ------------------------------------------------------------------------------


def test_a_strategy_of_ones_own_masks_its_units(load: Load, shards: Any) -> None:
    """Three neighbours at a time; and a unit of weight 0 is never masked."""
    model = load("bert")
    settings = MaskingSettings(strategy="custom", rate=0.3, mask_share=1.0, random_share=0.0)

    def threes(tokens: list[str], words: list[int]) -> tuple[list[int], list[float]]:
        return [place // 3 for place in range(len(tokens))], [
            float(place >= 3) for place in range(len(tokens))
        ]

    units = CustomUnits(threes, model.vocabulary, model.tokenizer)
    plan = plan_of(model.vocabulary, settings, units)
    source = TextSource(shards, None, model.vocabulary, plan, 64)
    chosen = set()
    for epoch in range(20):
        batch = source.batch(np.arange(len(source.sequences)), MaskKey(0, epoch), 0.3)
        place = batch.position_ids[batch.target_index]
        chosen |= set(place.tolist())
        first = batch.target_index[place % 3 == 0]
        inside = ~model.vocabulary.special[source.pack(np.arange(len(source.sequences))).input_ids]
        for at in first[:20].tolist():
            for more in (1, 2):
                same = (
                    at + more < batch.tokens
                    and batch.position_ids[at + more] == batch.position_ids[at] + more
                )
                assert not same or not inside[at + more] or at + more in batch.target_index
    assert min(chosen) == 3
    with pytest.raises(ConfigError, match="which only Python can pass"):
        plan_of(model.vocabulary, settings)


_CALLS = count()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (lambda tokens, words: [0], "must return the number of a unit for each of"),
        (lambda tokens, words: tokens, "must return the number of a unit for each of"),
        (lambda tokens, words: [[0]] + [[0, 1]] * (len(tokens) - 1), "must return the number of a unit"),
        (lambda tokens, words: (words, [math.inf] * len(words)), "a finite weight of 0 or more"),
        (
            lambda tokens, words: [next(_CALLS), *words[1:]],
            "something else when it is called again",
        ),
    ],
)
def test_a_strategy_that_cannot_work_is_named(load: Load, shards: Any, strategy: Any, message: str) -> None:
    model = load("bert")
    units = CustomUnits(strategy, model.vocabulary, model.tokenizer)
    source = TextSource(shards, None, model.vocabulary, plan_of(model.vocabulary, MaskingSettings()), 64)
    with pytest.raises(ConfigError, match=message):
        units(source.pack(np.arange(2)))


# --- an objective of one's own ------------------------------------------------------------------------------------


class WithPenalty(MaskedLanguageModelling):
    """Masked tokens, and small embeddings."""

    name = "penalised"
    loss_names = ("mlm", "penalty")
    loss_weights = (1.0, 0.1)
    without_accuracy = ("penalty",)

    def counts(self, batch: Any) -> tuple[int, ...]:
        return len(batch.target_ids), 1

    def losses(self, model: Any, batch: Any, divisors: Any) -> Any:
        penalty = model.model.get_input_embeddings().weight.pow(2).mean() / divisors[1]
        return *super().losses(model, batch, divisors), unmask.Loss(penalty)


class NotANumber(MaskedLanguageModelling):
    name = "nan"

    def losses(self, model: Any, batch: Any, divisors: Any) -> Any:
        (loss,) = super().losses(model, batch, divisors)
        return (loss._replace(value=loss.value * math.nan),)


class OneOfTwo(WithPenalty):
    def losses(self, model: Any, batch: Any, divisors: Any) -> Any:
        return super().losses(model, batch, divisors)[:1]


class Uncounted(WithPenalty):
    without_accuracy = ()


class Unweighted(WithPenalty):
    loss_weights = (1.0,)


class Nameless(unmask.Objective):
    batch = losses = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (NotANumber(), DivergedError, "none of 2 steps was applied"),
        (OneOfTwo(), ConfigError, r"must return a tuple of 2 unmask\.Loss"),
        (Uncounted(), ConfigError, "says for 'penalty' not how many"),
        (Unweighted(), ConfigError, "2 loss_names and 1 loss_weights"),
        (Nameless(), ConfigError, "the objective Nameless has no name"),
        (WithPenalty, ConfigError, r"an object of a class of unmask\.Objective, WithPenalty\(\)"),
    ],
)
def test_an_objective_that_cannot_work_is_named(
    objective: Any, error: type[Exception], message: str, checkpoint: Any, tmp_path: Path
) -> None:
    texts = [f"patient {number} was given {number % 7} mg of aspirin" for number in range(60)]
    with pytest.raises(error, match=message):
        unmask.train(
            texts,
            model=checkpoint("bert"),
            out=tmp_path / "run",
            objective=objective,
            max_steps=2,
            progress=False,
        )


def test_an_objective_of_ones_own_has_its_name_and_its_losses(checkpoint: Any, tmp_path: Path) -> None:
    texts = [f"patient {number} was given {number % 7} mg of aspirin" for number in range(60)]
    unmask.train(
        texts, model=checkpoint("bert"), out=tmp_path, objective=WithPenalty(), max_steps=2, progress=False
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    row = next(row for row in rows if "loss" in row)
    assert row["penalty_loss"] > 0
    assert "penalty_accuracy" not in row
    assert row["loss"] == pytest.approx(row["mlm_loss"] + 0.1 * row["penalty_loss"])
    assert "an objective of its own, penalised" in (tmp_path / "model" / "README.md").read_text("utf-8")
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "penalised" in report
    assert "training, masked tokens" in report  # the loss that compares with the held-out one
