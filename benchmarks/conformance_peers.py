"""The cases of the conformance checks, with `Trainer` and `DataCollatorForLanguageModeling` and with unmask.

Models are tiny and random and the text is generated, because the results do not depend on size. Every row is one case,
computed both ways in fp32 without dropout. `unmask conformance MODEL` has more checks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from harness import Result

ROWS, LENGTH, RATE = 16, 48, 0.15
SPLITS = ((16, 1), (4, 4), (1, 16))
FAMILIES = ("bert", "modernbert")
STEPS = 8


def options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return made


def work(args: argparse.Namespace) -> None:
    harness.need_peer()
    with tempfile.TemporaryDirectory(prefix="unmask-conformance-") as place:
        harness.run("conformance_peers", "make", {"place": place})
        theirs = harness.run("conformance_peers", "peer", {"place": place})
        ours = harness.run("conformance_peers", "ours", {"place": place})
    harness.write(args.json, harness.report("conformance_peers", args, transformers=theirs, unmask=ours))
    harness.table(["case", "transformers", "unmask"], [*_rows(theirs, ours)])


def _rows(theirs: Result, ours: Result) -> Iterator[list[str]]:
    for family in FAMILIES:
        for what in ("loss", "gradient norm"):
            for number, (_, steps) in enumerate(SPLITS[1:], 1):
                sides = (side["accumulation"][family] for side in (theirs, ours))
                shares = [f"{found[number][what] / found[0][what]:.2f}×" for found in sides]
                yield [f"{family}: {what} in {steps} micro-batches, relative to one (16 rows)", *shares]
    for key, (what, form) in CASES.items():
        yield [what, *(form.format(side[key]) for side in (theirs, ours))]


CASES = {
    "processes": ("loss of an evaluation by two processes, relative to one", "{:.2f}×"),
    "again": ("difference of two evaluations of one model", "{:.2g}"),
    "batch": ("difference of evaluations with 1 and with 32 rows a batch, the same masks", "{:.2g}"),
    "no_targets": ("loss of a batch in which nothing is masked", "{:.3g}"),
    "epochs": ("rows with the same masks as in the epoch before (2 workers, a seed)", "{:.0%}"),
    "rows": ("rows whose masks change with the size of the batch (a seed)", "{:.0%}"),
    "resume": ("largest difference of weights after a resume within an epoch", "{:.2g}"),
    "whole": ("whole words, byte-level BPE: lines masked completely, of those with a target", "{:.0%}"),
    "special": ("special tokens in 1,000 random replacements", "{:.1f}"),
    "literal": ("control tokens from the text 'a [SEP] b [MASK] c'", "{:.0f}"),
    "neighbour": ("change of a document's logits when its neighbour in the row changes", "{:.2g}"),
}


# ---------------------------------------------------------------- inputs


def _texts() -> list[str]:
    """Generate lines of 4 to 30 words; a few words are frequent and short, most are rare and long."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "ir")]
    words = ["".join(draw.choices(syllables, k=1 + number % 5)) for number in range(400)]
    weights = [1.0 / (1 + number) for number in range(400)]
    return [" ".join(draw.choices(words, weights, k=draw.randint(4, 30))) for _ in range(256)]


def make(place: str) -> Result:
    """Write text, a tokenizer and tiny models."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    from unmask.config.settings import ModelSettings
    from unmask.vocabulary.new_tokenizer import train_tokenizer

    texts = _texts()
    Path(place, "text.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer(texts, ModelSettings(vocab_size=300)).tokenizer
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    extra = {"bert": quiet, "modernbert": ids | {"global_attn_every_n_layers": 1}}
    for family in FAMILIES:
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family,
            vocab_size=len(tokenizer),
            initializer_range=0.1,
            max_position_embeddings=128,
            **shape,
            **extra[family],
        )
        AutoModelForMaskedLM.from_config(config).save_pretrained(Path(place, family))
        tokenizer.save_pretrained(Path(place, family))
    _byte_level(texts).save_pretrained(Path(place, "bytes"))
    return {}


def _byte_level(texts: list[str]) -> Any:
    """Train a tokenizer like ModernBERT's: byte-level BPE, where a space belongs to the next word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=names, initial_alphabet=alphabet, show_progress=False
        ),
    )
    ends = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names, strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def _bytes(place: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(place, "bytes"))


def _load(place: str, family: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = Path(place, family)
    return AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _lines(place: str) -> list[str]:
    return Path(place, "text.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


# ---------------------------------------------------------------- transformers


def peer(place: str) -> Result:
    """Compute every case with transformers."""
    _, tokenizer = _load(place, "bert")
    rows = [tokenizer(line, truncation=True, max_length=LENGTH) for line in _lines(place)]
    return {
        "accumulation": {family: _peer_accumulation(place, family, rows[: 2 * ROWS]) for family in FAMILIES},
        "processes": _peer_processes(place),
        "again": _peer_again(place, rows),
        "batch": _peer_batch(place, rows),
        "no_targets": _peer_no_targets(place, rows),
        "epochs": _peer_epochs(tokenizer, rows),
        "rows": _peer_rows(tokenizer, rows),
        "resume": _peer_resume(place, rows),
        "special": _peer_special(tokenizer, rows),
        "literal": sum(
            token in (tokenizer.sep_token_id, tokenizer.mask_token_id)
            for token in tokenizer("a [SEP] b [MASK] c", add_special_tokens=False)["input_ids"]
        ),
        "neighbour": _peer_neighbour(place),
        "whole": _peer_whole(place),
    }


def _collator(tokenizer: Any, **settings: Any) -> Any:
    import warnings

    from transformers import DataCollatorForLanguageModeling

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whole words are replaced by the mask token only
        return DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE, **settings)


def _fixed(tokenizer: Any, rows: list[Any]) -> list[Result]:
    """Mask rows once, padded to one length, so that every split has the same masks."""
    import torch

    torch.manual_seed(0)
    batch = _collator(tokenizer)([dict(row) for row in rows])
    return [{key: tensor[number] for key, tensor in batch.items()} for number in range(len(rows))]


def _with_targets(rows: list[Result]) -> list[Result]:
    """Drop rows without a target: alone in a batch their loss is NaN, which is a separate case."""
    return [row for row in rows if (row["labels"] != -100).any()]


def _trainer(place: str, family: str, rows: list[Any], collator: Any = None, **settings: Any) -> Any:
    from transformers import Trainer, TrainingArguments, default_data_collator

    model, _ = _load(place, family)
    plain = {
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "max_grad_norm": 1e9,
        "save_strategy": "no",
    }
    quiet = {"logging_steps": 1, "remove_unused_columns": False, "dataloader_pin_memory": False}
    arguments = TrainingArguments(output_dir=str(Path(place, "trainer")), **(plain | quiet | settings))
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator or default_data_collator,
    )


def _peer_accumulation(place: str, family: str, rows: list[Any]) -> list[Result]:
    _, tokenizer = _load(place, family)
    masked, found = _with_targets(_fixed(tokenizer, rows))[:ROWS], []
    for count, steps in SPLITS:
        split = {"per_device_train_batch_size": count, "gradient_accumulation_steps": steps}
        trainer = _trainer(place, family, masked, max_steps=1, learning_rate=1e-9, **split)
        trainer.train()
        logged = trainer.state.log_history[0]
        found.append({"loss": logged["loss"], "gradient norm": float(logged["grad_norm"])})
    return found


def _peer_processes(place: str) -> float:
    losses = []
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = Path(place, f"rank-{world}.json")
        job.write_text(json.dumps({"place": place}), encoding="utf-8")
        command = [sys.executable, str(Path(harness.__file__)), "conformance_peers", "peer_rank", str(job)]
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [
            subprocess.Popen(
                [*command, str(Path(place, f"found-{world}-{rank}.json"))],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(world)
        ]
        if sum(abs(rank.wait(timeout=300)) for rank in ranks):
            raise RuntimeError(f"an evaluation by {world} processes failed")
        losses.append(json.loads(Path(place, f"found-{world}-0.json").read_text(encoding="utf-8"))["loss"])
    return losses[1] / losses[0]


def peer_rank(place: str) -> Result:
    """Run one process of an evaluation."""
    _, tokenizer = _load(place, "bert")
    rows = [tokenizer(line, truncation=True, max_length=LENGTH) for line in _lines(place)[:64]]
    distributed = {"ddp_backend": "gloo"} if os.environ["WORLD_SIZE"] != "1" else {}
    trainer = _trainer(place, "bert", _fixed(tokenizer, rows), per_device_eval_batch_size=8, **distributed)
    return {"loss": trainer.evaluate()["eval_loss"]}


def _peer_again(place: str, rows: list[Any]) -> float:
    _, tokenizer = _load(place, "bert")
    trainer = _trainer(place, "bert", rows, _collator(tokenizer))
    losses = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    return abs(losses[0] - losses[1])


def _peer_batch(place: str, rows: list[Any]) -> float:
    _, tokenizer = _load(place, "bert")
    masked = _with_targets(_fixed(tokenizer, rows))
    losses = [
        _trainer(place, "bert", masked, per_device_eval_batch_size=count).evaluate()["eval_loss"]
        for count in (1, 32)
    ]
    return abs(losses[0] - losses[1])


def _peer_no_targets(place: str, rows: list[Any]) -> float:
    import torch

    model, tokenizer = _load(place, "bert")
    batch = _collator(tokenizer)([dict(rows[0])])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    return float(model(**batch).loss.detach())


def _padded(tokenizer: Any, rows: list[Any]) -> list[Result]:
    return [dict(tokenizer.pad(dict(row), padding="max_length", max_length=LENGTH)) for row in rows]


def _masks(loader: Any) -> list[Any]:
    return [tuple((row != -100).tolist()) for batch in loader for row in batch["labels"]]


def _same(found: list[Any], wanted: list[Any]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _peer_epochs(tokenizer: Any, rows: list[Any]) -> float:
    from torch.utils.data import DataLoader

    collator = _collator(tokenizer, seed=0)
    loader = DataLoader(_padded(tokenizer, rows), batch_size=8, num_workers=2, collate_fn=collator)
    return _same(_masks(loader), _masks(loader))


def _peer_rows(tokenizer: Any, rows: list[Any]) -> float:
    from torch.utils.data import DataLoader

    padded = _padded(tokenizer, rows)
    sizes = [
        _masks(DataLoader(padded, batch_size=n, collate_fn=_collator(tokenizer, seed=0))) for n in (8, 7)
    ]
    return 1.0 - _same(*sizes)


def _peer_resume(place: str, rows: list[Any]) -> float:
    import torch

    _, tokenizer = _load(place, "bert")
    settings = {"max_steps": STEPS, "learning_rate": 1e-3, "per_device_train_batch_size": 8}
    saving = settings | {"save_strategy": "steps", "save_steps": STEPS // 2}
    whole = _trainer(place, "bert", rows, _collator(tokenizer), **saving)
    whole.train()
    resumed = _trainer(place, "bert", rows, _collator(tokenizer), **saving)
    resumed.train(resume_from_checkpoint=str(Path(place, "trainer", f"checkpoint-{STEPS // 2}")))
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if isinstance(a, torch.Tensor))


def _peer_whole(place: str) -> float:
    import torch

    torch.manual_seed(0)
    tokenizer = _bytes(place)
    settings = {
        "truncation": True,
        "max_length": LENGTH,
        "padding": "max_length",
        "return_offsets_mapping": True,
    }
    rows = [dict(tokenizer(line, return_special_tokens_mask=True, **settings)) for line in _lines(place)]
    text = 1 - torch.tensor([row["special_tokens_mask"] for row in rows])
    hit = _collator(tokenizer, whole_word_mask=True)(rows)["labels"] != -100
    return float((hit == text.bool()).all(1).sum() / hit.any(1).sum())


def _peer_special(tokenizer: Any, rows: list[Any]) -> float:
    import torch

    torch.manual_seed(0)
    special = torch.tensor(tokenizer.all_special_ids)
    wrong = replaced = 0
    for _ in range(40):
        originals = tokenizer.pad([dict(row) for row in rows], return_tensors="pt")["input_ids"]
        batch = _collator(tokenizer)([dict(row) for row in rows])
        changed = (batch["labels"] != -100) & (batch["input_ids"] != originals)
        # A random [MASK] looks like a masked token, so the true count is higher by a quarter.
        drawn = batch["input_ids"][changed & (batch["input_ids"] != tokenizer.mask_token_id)]
        wrong += int(torch.isin(drawn, special).sum())
        replaced += len(drawn)
    return 1000 * wrong / replaced


def _peer_neighbour(place: str) -> float:
    """Join two lines in one row, as `run_mlm` does, and change the second."""
    import torch

    model, tokenizer = _load(place, "bert")
    first, second, third = (tokenizer(line, return_tensors="pt")["input_ids"] for line in _lines(place)[:3])
    with torch.no_grad():
        logits = [model.eval()(input_ids=torch.cat([first, other], 1)).logits for other in (second, third)]
    return float((logits[0][:, : first.shape[1]] - logits[1][:, : first.shape[1]]).abs().max())


# ---------------------------------------------------------------- unmask


def ours(place: str) -> Result:
    """Compute every case with unmask."""
    from unmask.promises.checks import conformance

    checks = {check.name: check for check in conformance(str(Path(place, "bert")), offline=True)}
    model = _ready(place, "bert")
    source = _source(place, model.tokenizer, "bert")
    return {
        "accumulation": {family: _our_accumulation(place, family) for family in FAMILIES},
        "processes": 1.0 + checks["process loss"].measured,
        "again": checks["evaluation again"].measured,
        "batch": _our_batch(source, model),
        "no_targets": checks["no targets"].measured,
        "epochs": _our_epochs(source),
        "rows": _our_rows(source),
        "resume": _our_resume(place),
        "special": _our_special(source, model),
        "literal": checks["literal tokens"].measured,
        "neighbour": checks["neighbours"].measured,
        "whole": _our_whole(place),
    }


def _source(place: str, tokenizer: Any, name: str, **masking: Any) -> Any:
    """Return the text as a source of unmask."""
    import numpy as np

    from unmask.config.settings import DocumentSettings, MaskingSettings
    from unmask.data.batches import TextSource
    from unmask.data.corpus import prepare
    from unmask.data.tokenizer import vocabulary_of

    settings = DocumentSettings(documents="line")
    corpus = prepare([Path(place, "text.txt")], settings, tokenizer, Path(place, f"shards-{name}"))
    masking_settings = MaskingSettings.model_validate({"rate": RATE} | masking)
    return TextSource(corpus, np.arange(len(corpus)), vocabulary_of(tokenizer), masking_settings, LENGTH)


def _ready(place: str, family: str) -> Any:
    from unmask.model.load import load_for_inference

    return load_for_inference(str(Path(place, family)), device="cpu", offline=True)


def _our_accumulation(place: str, family: str) -> list[Result]:
    import numpy as np
    import torch

    from unmask.data.masking.random_bits import MaskKey
    from unmask.training.loss import step_gradients

    model = _ready(place, family)
    source = _source(place, model.tokenizer, family)
    numbers, found = source.by_length(np.arange(ROWS)), []
    for count, steps in SPLITS:
        parts = [numbers[first : first + count] for first in range(0, ROWS, count)]
        batches = [source.batch(part, MaskKey(0, 0), RATE) for part in parts]
        assert len(batches) == steps
        model.model.zero_grad()
        loss, _ = step_gradients(model, batches, sum(len(batch.target_ids) for batch in batches))
        norm = torch.nn.utils.get_total_norm([w.grad for w in model.model.parameters() if w.grad is not None])
        found.append({"loss": float(loss), "gradient norm": float(norm)})
    return found


def _our_batch(source: Any, model: Any) -> float:
    from unmask.evaluation.heldout import evaluate_batches

    losses = [evaluate_batches(model, source.evaluation_batches(tokens)).loss for tokens in (1, 32 * LENGTH)]
    return abs(losses[0] - losses[1])


def _our_targets(source: Any, epoch: int, rows: int) -> list[Any]:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    found = []
    for part in np.array_split(np.arange(256), 256 // rows):
        batch = source.batch(part, MaskKey(0, epoch), RATE)
        ends = np.searchsorted(batch.target_index, batch.cu_seqlens)
        pairs = zip(ends[:-1], ends[1:], batch.cu_seqlens[:-1], strict=True)
        found += [tuple((batch.target_index[a:b] - begin).tolist()) for a, b, begin in pairs]
    return found


def _our_epochs(source: Any) -> float:
    """Rows without a target have equal masks by chance; only the others count."""
    pairs = zip(_our_targets(source, 0, 8), _our_targets(source, 1, 8), strict=True)
    return _same(*zip(*(pair for pair in pairs if any(pair)), strict=True))


def _our_rows(source: Any) -> float:
    return 1.0 - _same(_our_targets(source, 0, 8), _our_targets(source, 0, 7))


def _our_resume(place: str) -> float:
    import signal

    from safetensors.torch import load_file

    from unmask.config.load import load_config
    from unmask.errors import Interrupted
    from unmask.progress import Progress
    from unmask.run.train import train

    flags = {"data.inputs": [str(Path(place, "text.txt"))], "model.name": str(Path(place, "bert"))}
    flags |= {"train.max_steps": STEPS, "train.batch_tokens": 256, "train.optimizer.learning_rate": 1e-3}
    flags |= {"train.precision": "fp32", "train.device": "cpu", "model.offline": True}
    config = load_config(None, flags=flags)

    class Stop(Progress):
        def advance(self, share: float | None, figures: Any) -> None:
            if figures.get("step") == STEPS // 2 + 1:
                signal.raise_signal(signal.SIGTERM)

    whole, part = Path(place, "whole"), Path(place, "part")
    train(config, whole)
    try:
        train(config, part, progress=Stop())
    except Interrupted:
        train(config, part, resume="auto")
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (whole, part)]
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])


def _our_whole(place: str) -> float:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    source = _source(place, _bytes(place), "bytes", strategy="word")
    batches = [
        source.batch(np.array([number]), MaskKey(0, 0), RATE) for number in range(len(source.sequences))
    ]
    overhead = source.vocabulary.overhead
    hit = [len(batch.target_ids) == batch.tokens - overhead for batch in batches if len(batch.target_ids)]
    return sum(hit) / len(hit)


def _our_special(source: Any, model: Any) -> float:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    wrong = replaced = 0
    for epoch in range(40):
        batch = source.batch(np.arange(256), MaskKey(0, epoch), RATE)
        seen = batch.input_ids[batch.target_index]
        drawn = seen[(seen != batch.target_ids) & (seen != model.vocabulary.mask_id)]
        wrong += int(np.isin(drawn, model.tokenizer.all_special_ids).sum())
        replaced += len(drawn)
    return 1000 * wrong / replaced


if __name__ == "__main__":
    sys.exit(harness.main(work, options()))
