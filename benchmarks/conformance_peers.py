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
        ours = harness.run("conformance_ours", "ours", {"place": place})
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


def byte_tokenizer(place: str) -> Any:
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


def same_share(found: list[Any], wanted: list[Any]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _peer_epochs(tokenizer: Any, rows: list[Any]) -> float:
    from torch.utils.data import DataLoader

    collator = _collator(tokenizer, seed=0)
    loader = DataLoader(_padded(tokenizer, rows), batch_size=8, num_workers=2, collate_fn=collator)
    return same_share(_masks(loader), _masks(loader))


def _peer_rows(tokenizer: Any, rows: list[Any]) -> float:
    from torch.utils.data import DataLoader

    padded = _padded(tokenizer, rows)
    sizes = [
        _masks(DataLoader(padded, batch_size=n, collate_fn=_collator(tokenizer, seed=0))) for n in (8, 7)
    ]
    return 1.0 - same_share(*sizes)


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
    tokenizer = byte_tokenizer(place)
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


if __name__ == "__main__":
    sys.exit(harness.main(work, options()))
