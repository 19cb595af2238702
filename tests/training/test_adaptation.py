"""What adapting a checkpoint has beyond training: replay, layer-wise rates, LoRA, early stop, new heads and rows."""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import ARCHITECTURES
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.config.load import load_config
from unmask.config.settings import DocumentSettings, MaskingSettings, OptimizerSettings, RunConfig
from unmask.data.batches import TextSource, join
from unmask.data.corpus import Corpus, open_corpus
from unmask.data.heldout_size import MINIMUM
from unmask.data.preparation import prepare
from unmask.data.split import split_documents
from unmask.data.tokenizer import load_tokenizer, vocabulary_of
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import ConfigError, Interrupted
from unmask.model.layers import add_lora, depths, encoder_layers, head_weights, merge_lora
from unmask.model.load import read_checkpoint
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.run import writing
from unmask.run.dry_run import dry_run
from unmask.run.selection import halves
from unmask.run.train import train
from unmask.run.training_run import FinishedRun
from unmask.run_folder import RunFolder
from unmask.storage import read_rows
from unmask.training.best_weights import Best, load_best, save_best
from unmask.training.checkpoint import CheckpointWriter, save_checkpoint
from unmask.training.loss import step_gradients
from unmask.training.optimizers import make_optimizers
from unmask.training.parallel import GradientSum

WORDS = "the river carried a letter before winter came an unripe telescope measured mountains".split()
OTHERS = "her brother's violin sold two handwritten constitution boats while it rained in april".split()
TIMED = ("seconds", "tokens_per_second", "wait_share")

Configure = Callable[..., RunConfig]


class Listener(Progress):
    """Remembers what it is told, and does something when a step is over."""

    def __init__(self, at: Mapping[int, Callable[[], None]] | None = None) -> None:
        self.heard: list[str] = []
        self.at = dict(at or {})

    def log(self, text: str) -> None:
        self.heard.append(text)

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        if "step" in figures and (act := self.at.pop(int(str(figures["step"])), None)):
            act()


def stop_at(step: int) -> Listener:
    return Listener({step: lambda: signal.raise_signal(signal.SIGTERM)})


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the report, which is drawn from the other files and takes a second."""
    monkeypatch.setattr(writing, "write_report", lambda folder: None)


def lines(path: Path, words: list[str], count: int, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    texts = (" ".join(draw.choice(words, draw.integers(3, 25))) + f" {number}" for number in range(count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lines(tmp_path_factory.mktemp("text") / "domain.jsonl", WORDS, 200, 1)


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lines(tmp_path_factory.mktemp("text") / "general.jsonl", OTHERS, 60, 2)


@pytest.fixture
def configure(domain: Path, checkpoint: Callable[[str], Path]) -> Configure:
    """Return `make(model, **flags) -> RunConfig`, ten small steps from a tiny checkpoint; `__` stands for a dot."""

    def make(model: str | Path = "bert", **flags: Any) -> RunConfig:
        name = checkpoint(model) if isinstance(model, str) else model
        settings = {
            "data.inputs": [str(domain)],
            "data.heldout_share": 0.1,
            "data.max_length": 32,
            "model.name": str(name),
            "train.max_steps": 10,
            "train.batch_tokens": 256,
            "train.micro_batch_tokens": 100,
            "train.precision": "fp32",
            "train.device": "cpu",
            "train.log_every": 5,
        }
        return load_config(
            None, flags=settings | {key.replace("__", "."): value for key, value in flags.items()}
        )

    return make


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(result: FinishedRun, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(result.folder.metrics) if kind in row]


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(found: RunFolder, wanted: RunFolder) -> None:
    """Two runs must be equal to the last bit, but for the time they took."""

    def untimed(folder: RunFolder) -> list[dict[str, Any]]:
        return [{key: row[key] for key in row if key not in TIMED} for row in read_rows(folder.metrics)]

    assert untimed(found) == untimed(wanted)
    for path in ("model/model.safetensors", "evaluation.json", "examples.json"):
        assert (found.root / path).read_bytes() == (wanted.root / path).read_bytes(), path


def assert_stops_are_invisible(config: RunConfig, whole: FinishedRun, folder: Path, stops: list[int]) -> None:
    for number, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            train(config, folder, resume="auto" if number else None, progress=stop_at(stop))
    assert_same(train(config, folder, resume="auto").folder, whole.folder)


# --- general text mixed in ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(
    domain: Path, general: Path, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Corpus]:
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = load_tokenizer(str(checkpoint("bert")))
    return [prepare([path], DocumentSettings(), tokenizer, folder / path.stem) for path in (domain, general)]


@pytest.fixture
def mixed(corpora: list[Corpus], checkpoint: Callable[[str], Path]) -> Callable[..., TrainingStream]:
    """Return `make(share, batch_tokens) -> TrainingStream` of both texts, in sequences of at most 32 tokens."""
    vocabulary = vocabulary_of(load_tokenizer(str(checkpoint("bert"))))

    def make(share: float, batch_tokens: int = 256) -> TrainingStream:
        text, replay = (
            TextSource(corpus, np.arange(len(corpus)), vocabulary, MaskingSettings(), 32)
            for corpus in corpora
        )
        return TrainingStream(text, batch_tokens, 0, replay, share)

    return make


def walk(stream: TrainingStream, steps: int) -> Iterator[tuple[Cursor, np.ndarray]]:
    cursor = Cursor()
    for _ in range(steps):
        numbers, following = stream.take(cursor)
        yield cursor, numbers
        cursor = following


@pytest.mark.parametrize(("share", "batch"), [(0.05, 100), (0.05, 1000), (0.3, 256), (0.9, 256)])
def test_the_share_of_general_text_is_the_one_asked_for(
    mixed: Callable[..., TrainingStream], share: float, batch: int
) -> None:
    stream = mixed(share, batch)
    total, of_replay = 0, 0
    for _, numbers in walk(stream, 100):
        sizes = stream.sizes(numbers)
        assert sizes.sum() <= batch
        total += int(sizes.sum())
        of_replay += int(sizes[numbers >= len(stream.source.sequences)].sum())
        if share < 0.5:  # what is owed at the end of a pass is made up for in the next step
            assert abs(of_replay - share * total) <= 64 + (batch - sizes.sum()) * share
    assert of_replay / total == pytest.approx(share, abs=0.02 * share + 0.005)


def test_a_step_with_general_text_is_found_from_its_cursor_alone(
    mixed: Callable[..., TrainingStream],
) -> None:
    walked = list(walk(mixed(0.2), 60))
    assert walked[-1][0].epoch > 0
    assert walked[-1][0].replay_epoch > 0
    for cursor, numbers in walked[::7]:
        assert np.array_equal(mixed(0.2).take(cursor)[0], numbers)


def targets(stream: TrainingStream, cursor: Cursor, numbers: np.ndarray, parts: int) -> dict[int, Any]:
    """Return what is asked of each sequence of a step, and what the model sees of it."""
    found = {}
    for batch in stream.micro_batches(cursor, numbers, 0.3, parts):
        assert list(np.diff(batch.cu_seqlens)) == sorted(np.diff(batch.cu_seqlens), reverse=True)
        label = np.full(batch.tokens, -1)
        label[batch.target_index] = batch.target_ids
        for row, number in enumerate(batch.sequence_ids.tolist()):
            here = slice(batch.cu_seqlens[row], batch.cu_seqlens[row + 1])
            assert number not in found
            shown, asked, places = batch.input_ids[here], label[here], batch.position_ids[here]
            found[number] = (shown.tolist(), asked.tolist(), places.tolist())
    return found


def test_masks_do_not_depend_on_how_a_mixed_step_is_split(mixed: Callable[..., TrainingStream]) -> None:
    stream = mixed(0.3)
    for cursor, numbers in walk(stream, 20):
        whole = targets(stream, cursor, numbers, 1)
        assert whole.keys() == set(numbers.tolist())
        assert whole == targets(stream, cursor, numbers, 3)


def test_general_text_is_masked_anew_whenever_it_comes_again(mixed: Callable[..., TrainingStream]) -> None:
    """However often it comes within one pass over the domain's text."""
    stream = mixed(0.9)
    seen: dict[int, list[Any]] = {}
    for cursor, numbers in walk(stream, 40):
        assert cursor.epoch == 0
        for number, found in targets(stream, cursor, numbers, 1).items():
            if number >= len(stream.source.sequences) and len(found[0]) > 20:
                seen.setdefault(number, []).append(found[1])
    again = [asked for asked in seen.values() if len(asked) > 1]
    assert len(again) > 5
    assert sum(asked[0] != asked[1] for asked in again) > 0.9 * len(again)


def test_joined_batches_ask_what_each_asks(mixed: Callable[..., TrainingStream], load: Any) -> None:
    """The loss of the joined batch is the sum of theirs."""
    stream = mixed(0.5)
    numbers, _ = stream.take(Cursor())
    model: MaskedLM = load("bert")
    count = len(stream.source.sequences)
    parts = [
        stream.micro_batches(Cursor(), numbers[of], 0.3, 1)[0] for of in (numbers < count, numbers >= count)
    ]
    losses = [float(step_gradients(GradientSum(model), [batch], [10])[0]) for batch in parts]
    together, _ = step_gradients(GradientSum(model), [join(parts)], [10])
    assert float(together) == pytest.approx(sum(losses), rel=1e-5)


@pytest.fixture
def replayed(configure: Configure, general: Path, tmp_path: Path) -> tuple[RunConfig, FinishedRun]:
    config = configure(
        data__replay=[str(general)], data__replay_share=0.2, train__optimizer__learning_rate=1e-3
    )
    return config, train(config, tmp_path / "whole")


def test_a_run_with_general_text_measures_forgetting(replayed: tuple[RunConfig, FinishedRun]) -> None:
    _, result = replayed
    found = read(result.folder.evaluation)["general"]
    assert found.keys() >= {"loss", "accuracy", "perplexity", "masked_tokens", "before"}
    assert found["before"].keys() == found.keys() - {"before"}
    assert found["loss"] != found["before"]["loss"]
    assert found["masked_tokens"] == found["before"]["masked_tokens"]
    assert all(row["general_loss"] > 0 for row in rows(result, "eval_loss"))
    corpus = read(result.folder.info)["corpus"]
    assert corpus["replay_documents"] + corpus["general_documents"] == 60
    train_, heldout = split_documents(open_corpus(result.folder.root / "shards-replay"), 0.1, MINIMUM)
    assert (len(train_), len(heldout)) == (corpus["replay_documents"], corpus["general_documents"])


def test_a_stopped_run_with_general_text_goes_on_to_the_last_bit(
    replayed: tuple[RunConfig, FinishedRun], tmp_path: Path
) -> None:
    assert_stops_are_invisible(*replayed, tmp_path / "part", [3, 8])


def test_other_general_text_is_refused_on_resume(
    replayed: tuple[RunConfig, FinishedRun], tmp_path: Path
) -> None:
    config, result = replayed
    tokenizer = load_tokenizer(str(config.model.name))
    other = prepare(
        [lines(tmp_path / "o.jsonl", OTHERS, 60, 3)], DocumentSettings(), tokenizer, tmp_path / "other"
    )
    data = config.data.model_copy(update={"replay": [str(other.folder)]})
    with pytest.raises(ConfigError, match=r"cannot resume: the text of the run .* changed"):
        train(config.model_copy(update={"data": data}), result.folder.root, resume="auto")


def test_forgetting_is_measured_without_replay(configure: Configure, general: Path, tmp_path: Path) -> None:
    config = configure(data__forgetting_eval=[str(general)], train__max_steps=2)
    result = train(config, tmp_path / "run")
    assert read(result.folder.evaluation)["general"]["masked_tokens"] > 50
    plain = train(configure(train__max_steps=2), tmp_path / "plain")
    assert weights_of(result.folder.model)["cls.predictions.bias"].equal(
        weights_of(plain.folder.model)["cls.predictions.bias"]
    )
    assert "general" not in read(plain.folder.evaluation)


# --- rates by depth, frozen embeddings ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_rates_fall_from_the_head_to_the_embeddings(tiny_model: Any, architecture: str, name: str) -> None:
    model = tiny_model(architecture, 200)
    layers = len(encoder_layers(model)[1])
    keys = {id(weight): key for key, weight in model.named_parameters()}
    found = {}
    for optimizer in make_optimizers(model, OptimizerSettings(layer_decay=0.5), name, 1.0):
        base = 0.02 if type(optimizer).__name__ == "Muon" else 1.0
        for group in optimizer.param_groups:
            found |= {keys[id(weight)]: group["peak_lr"] / base for weight in group["params"]}
    assert found.keys() == set(keys.values())
    table = keys[id(model.get_input_embeddings().weight)]
    assert found[table] == pytest.approx(0.5 ** (layers + 1))
    for key, rate in found.items():
        numbers = [int(part) for part in key.split(".") if part.isdigit()]
        if not key.startswith(f"{model.base_model_prefix}."):
            assert rate == 1.0, key
        elif numbers:
            assert rate == pytest.approx(0.5 ** (layers - numbers[0])), key
        else:
            assert rate in (0.5, 0.5 ** (layers + 1)), key


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "deberta-v2", "electra"])
def test_frozen_embeddings_do_not_move(
    configure: Configure, architecture: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    listener = Listener()
    result = train(
        configure(architecture, train__freeze="embeddings", train__max_steps=2),
        tmp_path / "run",
        progress=listener,
    )
    before, after = weights_of(checkpoint(architecture)), weights_of(result.folder.model)
    deep = depths(AutoModelForMaskedLM.from_pretrained(result.folder.model))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert not {key for key in moved if deep[key] == 0}
    assert any("the output matrix is tied to the frozen embeddings" in text for text in listener.heard)
    assert any("weights (" in text for text in listener.heard)


def test_frozen_embeddings_go_with_gradient_checkpointing(configure: Configure, tmp_path: Path) -> None:
    flags = {"train__freeze": "embeddings", "train__max_steps": 2}
    plain = train(configure(**flags), tmp_path / "plain")
    saving = train(configure(**flags, train__gradient_checkpointing=True), tmp_path / "saving")
    assert (plain.folder.model / "model.safetensors").read_bytes() == (
        saving.folder.model / "model.safetensors"
    ).read_bytes()


# --- LoRA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_start_at_nothing_and_are_merged_into_the_same_model(
    checkpoint: Callable[[str], Path], make_batch: Any, architecture: str
) -> None:
    name = str(checkpoint(architecture))
    model = MaskedLM(read_checkpoint(name).model, load_tokenizer(name))
    batch = make_batch(model.vocabulary, [12, 9, 5])
    names = list(model.model.state_dict())
    with torch.no_grad():
        plain = model.target_logits(batch)
        tuner = add_lora(model.model, 2, seed=0, head=False)
        assert torch.equal(model.target_logits(batch), plain)
        moving = {key for key, weight in model.model.named_parameters() if weight.requires_grad}
        assert moving
        assert all("lora_" in key for key in moving)
        for key, weight in model.model.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
        moved = model.target_logits(batch)
        assert (moved - plain).abs().max() > 1e-3
        merge_lora(tuner)
        assert (model.target_logits(batch) - moved).abs().max() <= 1e-5
    assert list(model.model.state_dict()) == names


@pytest.mark.parametrize("rank", [1, 4])
def test_the_update_of_lora_counts_twice_at_any_rank(checkpoint: Callable[[str], Path], rank: int) -> None:
    model = read_checkpoint(str(checkpoint("bert"))).model
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    tuner = add_lora(model, rank, seed=0, head=False)
    factors: dict[str, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for key, weight in model.named_parameters():
            layer, lora, side = key.partition(".lora_")
            if lora:
                weight.normal_(generator=torch.Generator().manual_seed(len(key)))
                factors.setdefault(f"{layer}.weight", {})[side[0]] = weight.clone()
    merge_lora(tuner)
    after = dict(model.named_parameters())
    assert factors
    for key, factor in factors.items():
        torch.testing.assert_close(
            after[key] - before[key], 2 * factor["B"] @ factor["A"], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(("architecture", "optimizer"), [("bert", "auto"), ("modernbert", "muon")])
def test_a_run_with_lora_leaves_a_plain_model(
    configure: Configure, architecture: str, optimizer: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    config = configure(architecture, train__lora_rank=2, train__max_steps=6, train__optimizer__name=optimizer)
    result = train(config, tmp_path / "run")
    before, after = weights_of(checkpoint(architecture)), weights_of(result.folder.model)
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    stack = encoder_layers(read_checkpoint(str(checkpoint(architecture))).model)[0]
    assert moved
    assert all(key.startswith(stack) and before[key].ndim == 2 for key in moved)
    assert result.evaluation is not None
    assert result.evaluation["loss"] < result.evaluation["before"]["loss"]
    assert plain_loss(result.folder) == pytest.approx(result.evaluation["loss"], rel=1e-5)
    info = read(result.folder.info)
    assert info["trained_parameters"] < 0.2 * info["parameters"]
    assert_stops_are_invisible(config, result, tmp_path / "part", [2, 4])


def plain_loss(folder: RunFolder, *, selection: bool = False) -> float:
    """Score the held-out text, or that which chose the weights, with plain transformers, one sequence at a time."""
    model = AutoModelForMaskedLM.from_pretrained(folder.model).eval()
    vocabulary = vocabulary_of(AutoTokenizer.from_pretrained(folder.model))
    corpus = open_corpus(folder.shards)
    heldout = split_documents(corpus, 0.1, MINIMUM)[1]
    assert heldout is not None
    heldout = heldout[halves(corpus.keys[heldout]) == selection]
    source = TextSource(corpus, heldout, vocabulary, MaskingSettings(), 32)
    total, asked = 0.0, 0
    for batch in source.evaluation_batches(1):
        labels = torch.full((1, batch.tokens), -100)
        labels[0, batch.target_index] = torch.from_numpy(batch.target_ids)
        with torch.no_grad():
            out = model(input_ids=torch.from_numpy(batch.input_ids)[None], labels=labels)
        if count := len(batch.target_ids):
            total, asked = total + float(out.loss) * count, asked + count
    return total / asked


def test_a_missing_peft_names_the_extra(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'unmask\[lora\]'"):
        train(configure(train__lora_rank=2), tmp_path / "run")


# --- early stop and the best weights ------------------------------------------------------------------------------


def test_what_is_best_after_some_evaluations() -> None:
    best = None
    for step, loss in enumerate([math.nan, 2.0, 2.0, 2.5, 1.0], 1):
        best = Best.after(best, step, loss)
        if step == 4:
            assert best == Best(2, 2.0, 2)
    assert best == Best(5, 1.0, 0)


def test_the_best_weights_of_a_checkpoint_are_kept_with_it(load: Any, tmp_path: Path) -> None:
    """A run that goes back to a checkpoint needs what was best then."""
    model = load("bert").model
    save_checkpoint(tmp_path, model, [], {"step": 4, "best": {"step": 3}}, keep_last=2)
    writer = CheckpointWriter()
    for step in (3, 6, 9):
        save_best(writer, tmp_path, model, step)
    writer.wait()
    writer.close()
    kept = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert kept == ["step-00000003", "step-00000009"]
    with torch.no_grad():
        next(model.parameters()).fill_(7.0)
    load_best(tmp_path, model, 3)
    assert float(next(model.parameters()).detach().abs().max()) < 7


@pytest.fixture
def worsening(configure: Configure) -> RunConfig:
    """A run whose learning rate is so high that the loss soon rises."""
    return configure(
        train__optimizer__learning_rate=0.1,
        train__schedule__name="constant",
        train__schedule__warmup_share=0.0,
        train__max_steps=40,
        train__eval_every=1,
        train__patience=3,
    )


def test_a_run_that_gets_worse_stops_and_exports_its_best(worsening: RunConfig, tmp_path: Path) -> None:
    listener = Listener()
    result = train(worsening, tmp_path / "run", progress=listener)
    evaluation, losses = (
        read(result.folder.evaluation),
        [row["eval_loss"] for row in rows(result, "eval_loss")],
    )
    best = int(np.argmin(losses)) + 1
    assert result.steps == best + 3 < 40
    assert (evaluation["step"], evaluation["stopped_early"]) == (best, True)
    assert plain_loss(result.folder, selection=True) == pytest.approx(min(losses), rel=1e-5)
    assert plain_loss(result.folder) == pytest.approx(evaluation["loss"], rel=1e-5)
    said = " ".join(listener.heard)
    assert f"stopping early after step {best + 3}: the held-out loss has not fallen below" in said
    assert "of its peak, since its schedule was made for the whole run" in said
    assert f"exporting the weights of step {best}," in said


@pytest.mark.parametrize("late", [0, 1])
def test_an_early_stop_is_the_same_after_a_stop(worsening: RunConfig, tmp_path: Path, late: int) -> None:
    whole = train(worsening, tmp_path / "whole")
    stops = [2, whole.steps - 1 + late]  # the last one in the very step that ends the run
    assert_stops_are_invisible(worsening, whole, tmp_path / "part", stops)


def test_without_patience_the_run_goes_on_and_its_best_is_exported(
    worsening: RunConfig, tmp_path: Path
) -> None:
    first = train(worsening, tmp_path / "first").evaluation
    assert first is not None
    changes = {"patience": 0, "max_steps": first["step"] + 2}
    config = worsening.model_copy(update={"train": worsening.train.model_copy(update=changes)})
    result = train(config, tmp_path / "run")
    evaluation, losses = (
        read(result.folder.evaluation),
        [row["eval_loss"] for row in rows(result, "eval_loss")],
    )
    assert (result.steps, evaluation["stopped_early"]) == (first["step"] + 2, False)
    assert evaluation["step"] == int(np.argmin(losses)) + 1 == first["step"]
    changes |= {"export_best": False}
    config = worsening.model_copy(update={"train": worsening.train.model_copy(update=changes)})
    last = train(config, tmp_path / "last")
    assert read(last.folder.evaluation)["step"] == last.steps
    assert read(last.folder.evaluation)["loss"] == rows(last, "eval_loss")[-1]["eval_loss"]
    assert not (last.folder.checkpoints / "best").exists()


def test_damaged_best_weights_are_said_and_the_last_are_exported(
    worsening: RunConfig, tmp_path: Path
) -> None:
    result = train(worsening, tmp_path / "run")
    (path,) = (result.folder.checkpoints / "best").glob(f"*{read(result.folder.evaluation)['step']}")
    (weights,) = path.glob("*.safetensors")
    weights.write_bytes(b"no weights")
    listener = Listener()
    again = train(worsening, tmp_path / "run", resume="auto", progress=listener)
    if read(again.folder.evaluation)["step"] == again.steps:
        assert any("the best weights cannot be read" in text for text in listener.heard)


# --- a new head, new rows -----------------------------------------------------------------------------------------


@pytest.fixture
def headless(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of a tiny BERT without its LM head, as those of sentence embeddings are."""
    folder = tmp_path / "headless"
    read_checkpoint(str(checkpoint("bert"))).model.base_model.save_pretrained(folder)
    load_tokenizer(str(checkpoint("bert"))).save_pretrained(folder)
    return folder


def at_checkpoints(folder: RunFolder) -> dict[int, dict[str, Tensor]]:
    return {
        int(path.name[5:]): load_file(path / "model-00001-of-00002.safetensors")
        for path in folder.checkpoints.glob("step-*")
    }


@pytest.mark.parametrize("lora", [None, 2])
def test_a_new_head_moves_alone_at_first(
    configure: Configure, headless: Path, tmp_path: Path, lora: int | None
) -> None:
    flags = {"train__save_every": 1, "train__keep_last": 20, "train__lora_rank": lora}
    config = configure(headless, train__head_warmup_steps=4, **flags)
    result = train(config, tmp_path / "run")
    found = at_checkpoints(result.folder)
    model = read_checkpoint(str(headless)).model
    if lora:
        add_lora(model, lora, seed=0, head=True)
    start = {key: weight.detach() for key, weight in model.named_parameters()}
    head = {id(weight) for weight in head_weights(model)}
    names = {key for key, weight in model.named_parameters() if id(weight) in head}

    def moved(step: int) -> set[str]:
        return {key for key in start if not torch.equal(start[key], found[step][key])}

    assert moved(1) == moved(4) == names
    assert moved(5) > names
    if lora:
        assert all("lora_" in key for key in moved(9) - names)
    rates = [row["learning_rate"] for row in rows(result, "learning_rate")]
    assert rates[0] < 1e-3 * 2  # at step 5 the rates rise anew
    assert_stops_are_invisible(config, result, tmp_path / "part", [2, 4])


def test_a_new_head_without_the_flag_is_said(configure: Configure, headless: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(configure(headless, train__max_steps=1), tmp_path / "run", progress=listener)
    assert any("--head-warmup-steps 200 trains only the head" in text for text in listener.heard)


def test_a_head_that_is_there_needs_no_start(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train.head_warmup_steps is for.* but the model has one; leave it out"
    ):
        train(configure(train__head_warmup_steps=5), tmp_path / "run")


@pytest.fixture
def extended(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], tuple[Path, list[int]]]:
    """Return `make(architecture)`: a checkpoint with two entries that stand for added words, and their ids."""

    def make(architecture: str) -> tuple[Path, list[int]]:
        folder, tokenizer = tmp_path / "extended", load_tokenizer(str(checkpoint(architecture)))
        read_checkpoint(str(checkpoint(architecture))).model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ids = sorted(
            {i for word in ("river", "winter") for i in tokenizer(word, add_special_tokens=False).input_ids}
        )
        content = {"words": [{"word": str(i), "id": i} for i in ids]}
        (folder / "added_words.json").write_text(json.dumps(content), encoding="utf-8")
        return folder, ids

    return make


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "eurobert"])
def test_new_rows_move_alone_at_first(
    configure: Configure, extended: Any, tmp_path: Path, architecture: str
) -> None:
    """In the embeddings, in an output matrix of its own (EuroBERT's), and in the bias."""
    folder, ids = extended(architecture)
    flags = {"train__save_every": 1, "train__keep_last": 20, "train__optimizer__weight_decay": 0.1}
    result = train(configure(folder, train__new_embeddings_steps=3, **flags), tmp_path / "run")
    found, start = (
        at_checkpoints(result.folder),
        copy.deepcopy(read_checkpoint(str(folder)).model.state_dict()),
    )
    rows_ = len(read_checkpoint(str(folder)).model.get_input_embeddings().weight)
    moved = {key for key in found[3] if not torch.equal(start[key], found[3][key])}
    assert any("embed" in key for key in moved)
    for key in moved:
        assert len(start[key]) == rows_
        changed = (start[key] != found[3][key]).reshape(rows_, -1).any(1).nonzero().flatten().tolist()
        assert set(changed) <= set(ids), key
        assert changed
    later = {key for key in found[4] if not torch.equal(start[key], found[4][key])}
    assert len(later) > len(moved)


def test_new_rows_that_are_not_there_are_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*added_words\.json"):
        train(configure(train__new_embeddings_steps=3), tmp_path / "run")


# --- choices that cannot go together, and the forecast ------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data__replay_share": 0.0}, "must be a number, more than 0 and less than 1"),
        ({"train__lora_rank": 2, "train__recipe": "scratch"}, "lora_rank adapts a checkpoint"),
        ({"train__new_embeddings_steps": 2, "train__lora_rank": 2}, "which train.lora_rank freezes"),
        ({"train__new_embeddings_steps": 2, "train__freeze": "embeddings"}, "which train.freeze freezes"),
        ({"train__new_embeddings_steps": 2, "train__head_warmup_steps": 2}, "exclude each other"),
        ({"train__optimizer__layer_decay": 1.0}, "more than 0 and less than 1"),
    ],
)
def test_settings_that_do_not_go_together(configure: Configure, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        configure(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"train__lora_rank": 2},
        {"train__recipe": "adapt"},
        {"train__freeze": "embeddings"},
        {"train__head_warmup_steps": 2},
        {"train__new_embeddings_steps": 2},
    ],
)
def test_new_weights_cannot_be_adapted(configure: Configure, tmp_path: Path, flags: dict[str, Any]) -> None:
    config = configure(model__name=None, model__preset="bert-mini", **flags)
    with pytest.raises(
        ConfigError, match="all weights of the preset 'bert-mini' are new and have to be trained"
    ):
        train(config, tmp_path / "run")


def test_the_forecast_knows_these_choices(configure: Configure, headless: Path, general: Path) -> None:
    flags = {"data__replay": [str(general)], "train__lora_rank": 2, "train__head_warmup_steps": 3}
    made = dry_run(configure(headless, train__optimizer__layer_decay=0.9, **flags))
    assert made.steps == 10
    assert made.seconds_per_step > 0
