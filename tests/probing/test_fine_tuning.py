"""Fine-tuning by the training loop computes what a plain loop over plain transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from unmask.data.masking.random_bits import MaskKey
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import DivergedError
from unmask.probing.examples import Examples, Task
from unmask.probing.features import encode, encode_pairs
from unmask.probing.fine_tuning import ExampleSource, TaskObjective, finetune
from unmask.probing.learn import Learner, Part
from unmask.probing.settings import FineTuningSettings
from unmask.probing.targets import target_of
from unmask.progress import Progress

TEXTS = [
    "the old boat",
    "letters from an engineer in winter",
    "war and the election of the captain",
    "river",
    "a telescope in the mountains before the war",
    "her dictionary",
]
LABELS = {
    "classification": [["sea"], ["land"], ["war"], ["sea"], ["land"], ["land"]],
    "multilabel": [["sea"], ["land", "war"], ["war"], [], ["land"], ["sea", "war"]],
    "regression": [["0.5"], ["3"], ["2.5"], ["0"], ["4"], ["1"]],
}
TAGS = [["A" if len(word) > 4 else "O" for word in text.split()] for text in TEXTS]


def learner_of(lm: Any, kind: str, pool: str = "mean", pairs: bool = False) -> tuple[Learner, Part]:
    """Return a learner and the examples above, as one part of a task."""
    tagged = kind == "tags"
    labels = TAGS if tagged else LABELS[kind]
    words = [text.split() for text in TEXTS] if tagged else None
    examples = Examples("test", TEXTS, words, labels, [None] * len(TEXTS))
    task = Task("test", kind, examples, None, examples)  # type: ignore[arg-type]
    known = sorted({label for row in labels for label in row})
    target = target_of(task, known, known[0])
    encoded = encode_pairs(lm, TEXTS, TEXTS[::-1]) if pairs else encode(lm, TEXTS, words)
    learner = Learner(lm, tagged, pool, target, lambda gold, found: 0.0)  # type: ignore[arg-type]
    return learner, Part(encoded, [target.codes(row) for row in labels])


def plain_vectors(plain: Any, learner: Learner, part: Part, rows: list[int]) -> torch.Tensor:
    """Compute the vectors of units one text at a time, as anybody would."""
    found, vocabulary = [], learner.lm.vocabulary
    for row in rows:
        inputs = {"input_ids": torch.from_numpy(part.encoded.ids[row])[None]}
        if part.encoded.types is not None:
            inputs["token_type_ids"] = torch.from_numpy(part.encoded.types[row])[None]
        hidden = plain(**inputs).last_hidden_state[0]
        if learner.tagged:
            found += [hidden[place] for place in part.encoded.places[row].tolist()]
        elif learner.pool == "cls":
            found.append(hidden[0])
        else:
            found.append(hidden[len(vocabulary.prefix) : len(hidden) - len(vocabulary.suffix)].mean(0))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("architecture", "kind", "options"),
    [
        ("bert", "classification", {}),
        ("bert", "classification", {"pool": "cls"}),
        ("bert", "classification", {"pairs": True}),
        ("bert", "tags", {}),
        ("modernbert", "multilabel", {}),
        ("modernbert", "tags", {}),
        ("deberta-v2", "regression", {}),
        ("roberta", "classification", {"pairs": True}),
    ],
)
def test_loss_and_gradient_are_those_of_plain_transformers(
    load: Callable[..., Any],
    checkpoint: Callable[[str], Any],
    architecture: str,
    kind: str,
    options: dict[str, Any],
) -> None:
    lm = load(architecture)
    learner, part = learner_of(lm, kind, **options)
    head = torch.nn.Linear(int(lm.model.config.hidden_size), learner.target.outputs)
    lm.attach(task=head)
    objective, source = (
        TaskObjective(learner.target, learner.tagged, learner.pool),
        ExampleSource(part, lm.vocabulary),
    )
    rows = np.argsort([-len(ids) for ids in part.encoded.ids], kind="stable")
    count = sum(len(part.encoded.places[row]) for row in rows)
    total = torch.zeros(())
    lm.model.eval()
    for some in (rows[:2], rows[2:]):  # micro-batches are divided by the units of the step
        batch = source.batch(some, MaskKey(0, 0), 0.0, make=objective.batch)
        (loss,) = objective.losses(lm, batch, [count])
        loss.value.backward()
        total += loss.value.detach()
    plain = AutoModel.from_pretrained(checkpoint(architecture)).eval()
    own = torch.nn.Linear(head.in_features, head.out_features)
    own.load_state_dict(head.state_dict())
    codes = np.concatenate([part.codes[row] for row in rows])
    wanted = learner.target.loss(
        own(plain_vectors(plain, learner, part, rows.tolist())), torch.from_numpy(codes)
    )
    (wanted / count).backward()
    torch.testing.assert_close(total, wanted.detach() / count)
    torch.testing.assert_close(head.weight.grad, own.weight.grad, atol=1e-5, rtol=1e-4)
    plain_weights = dict(plain.named_parameters())
    for name, weight in lm.encoder.named_parameters():
        if weight.grad is not None and name in plain_weights:
            torch.testing.assert_close(weight.grad, plain_weights[name].grad, atol=1e-5, rtol=1e-3)
    lm.detach()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_it_ends_where_a_plain_loop_ends(
    load: Callable[..., Any], checkpoint: Callable[[str], Any], architecture: str
) -> None:
    lm, epochs, rate = load(architecture), 3, 1e-3
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    lm.model.config.attention_probs_dropout_prob = 0.0
    learner, part = learner_of(lm, "classification")
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    found, chosen = finetune(
        learner, part, None, part, 1, FineTuningSettings(epochs=epochs, batch=2, learning_rate=rate)
    )
    assert chosen == {"learning_rate": rate, "epochs": epochs, "batch": 2}
    after = lm.model.state_dict()  # as it was
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    plain = AutoModel.from_pretrained(checkpoint(architecture)).eval()
    head = plainly_tuned(plain, learner, part, batch=2, epochs=epochs, rate=rate)
    rows = list(range(len(TEXTS)))
    wanted = learner.target.decode(head(plain_vectors(plain, learner, part, rows)))
    assert [int(codes[0]) for codes in found[0]] == wanted.tolist()


def plainly_tuned(
    plain: Any, learner: Learner, part: Part, batch: int, epochs: int, rate: float
) -> torch.nn.Linear:
    """Fine-tune by a plain loop on the same examples in the same order; return the head."""
    source = ExampleSource(part, learner.lm.vocabulary)
    tokens = max(source.longest, round(batch * source.tokens / len(part.codes)))
    stream, at = TrainingStream(source, tokens, 0), Cursor()
    torch.manual_seed(0)
    head = torch.nn.Linear(int(plain.config.hidden_size), learner.target.outputs)
    torch.nn.init.normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    weights = list(plain.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.01, "peak": rate},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0, "peak": rate},
        {"params": list(head.parameters()), "weight_decay": 0.0, "peak": 10 * rate},
    ]
    optimizer, length, done = torch.optim.AdamW(groups, lr=rate), len(part.codes) * epochs, 0
    while done < length:
        numbers, at = stream.take(at)
        begin, end = done / length, (done + len(numbers)) / length
        found = head(plain_vectors(plain, learner, part, numbers.tolist()))
        codes = torch.from_numpy(np.concatenate([part.codes[row] for row in numbers]))
        loss = learner.target.loss(found, codes) / len(codes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*weights, *head.parameters()], 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(end / 0.1, (1 - begin) / 0.9, 1.0)
        optimizer.step()
        done += len(numbers)
    return head


def test_patience_takes_the_best_epoch_and_ends(load: Callable[..., Any]) -> None:
    learner, part = learner_of(load("bert"), "classification")
    seen: list[list[list[int]]] = []
    metrics = iter([0.1, 0.5, 0.3, 0.5])

    def metric(gold: Any, found: Any) -> float:
        seen.append([codes.tolist() for codes in found])
        return next(metrics)

    tuning = FineTuningSettings(epochs=9, batch=2, learning_rate=3e-3, patience=2)
    found, chosen = finetune(replace(learner, metric=metric), part, part, part, 1, tuning)
    assert chosen["best_epochs"] == [2]
    assert len(seen) == 4
    assert [codes.tolist() for codes in found[0]] == seen[1]


@pytest.mark.parametrize("patience", [None, 9])
def test_an_interrupted_one_goes_on_to_the_same_weights(
    load: Callable[..., Any], tmp_path: Path, patience: int | None
) -> None:
    tuning = FineTuningSettings(epochs=4, batch=2, learning_rate=3e-3, patience=patience)
    values: dict[str, list[float]] = {}

    def tuned(name: str, keep: Path | None, stop: int = 0) -> tuple[list[Any], dict[str, Any], list[str]]:
        """Fine-tune with two seeds; `stop` interrupts before the checkpoint of that number."""
        logs, seen = [], values.setdefault(name, [])
        learner, part = learner_of(load("bert"), "classification")

        def metric(gold: Any, found: Any) -> float:
            seen.append(
                float(np.mean([code[0] == other[0] for code, other in zip(gold, found, strict=True)]))
            )
            return seen[-1]

        class Progressed(Progress):
            def log(self, text: str) -> None:
                logs.append(text)

            def advance(self, done: Any, values: Any = None) -> None:
                if (
                    stop
                    and len(list(tmp_path.glob(f"{name}/*/seed-1/checkpoints/step-*")))
                    and done > stop / 4
                ):
                    raise KeyboardInterrupt

        given = replace(learner, metric=metric, progress=Progressed())
        return (*finetune(given, part, part if patience else None, part, 2, tuning, keep), logs)

    whole, chosen, _ = tuned("whole", None)
    with pytest.raises(KeyboardInterrupt):
        tuned("kept", tmp_path / "kept", stop=2)
    assert list(tmp_path.glob("kept/*/seed-0/predictions.json"))
    assert not list(tmp_path.glob("kept/*/seed-1/predictions.json"))
    again, chosen_again, logs = tuned("kept", tmp_path / "kept")
    assert any("seed 1 of 2: kept in" in text for text in logs)
    assert any("going on after epoch " in text for text in logs)
    assert chosen == chosen_again
    assert [[code.tolist() for code in codes] for codes in whole] == [
        [code.tolist() for code in codes] for codes in again
    ]
    if patience:
        assert values["kept"] == values["whole"]
    assert tuned("kept", tmp_path / "kept")[1] == chosen  # nothing is left to train
    assert not list(tmp_path.glob("kept/*/seed-*/checkpoints"))


def test_a_loss_that_is_not_finite_ends_it_in_one_line(load: Callable[..., Any]) -> None:
    learner, part = learner_of(load("bert"), "classification")
    tuning = FineTuningSettings(epochs=20, batch=2, learning_rate=1e30)
    with pytest.raises(
        DivergedError, match=r"fine-tuning, step \d+: .*; try a lower --learning-rate"
    ) as caught:
        finetune(learner, part, None, part, 1, tuning)
    assert "\n" not in str(caught.value)
    assert not learner.lm.attached
