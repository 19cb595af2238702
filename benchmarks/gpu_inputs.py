"""What the parts of ``gpu.py`` work on, all of it made here, and the process in which a part runs."""

from __future__ import annotations

import gc
import importlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Step = tuple[str, Callable[[], Result]]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def run(arguments: Sequence[str]) -> None:
    """Run the steps of a part, and write a line for each as soon as it is done; one that fails stops no other."""
    module, function, given, found = arguments
    settings = json.loads(Path(given).read_text(encoding="utf-8"))
    with Path(found).open("a", encoding="utf-8") as file:
        for name, step in getattr(importlib.import_module(module), function)(**settings):
            begin = time.perf_counter()
            try:
                row = step()
            except Exception as error:
                row = {"error": f"{type(error).__name__}: {error}"[:2000]}
            release()
            row = {"name": name, "took_seconds": round(time.perf_counter() - begin, 2)} | row
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()


def release() -> None:
    """Free what the last step left, and begin to count the peak of memory anew."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int | None:
    """Return the most bytes of the device in use since the step began."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else None


# ---------------------------------------------------------------- made here


def inputs(sizes: Result) -> Iterator[Step]:
    """Make the vocabulary, the text, both models and the shards."""
    place = Path(sizes["place"])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    yield "text", lambda: _text(place, sizes)
    yield "models", lambda: _models(place, sizes)
    yield "shards", lambda: _shards(place)
    if (place / "shards").is_dir():
        (place / "made").touch()


def words(count: int) -> list[str]:
    """Return so many different words of two and three syllables."""
    made = (("".join(parts)) for length in (2, 3) for parts in product(SYLLABLES, repeat=length))
    return list(islice(made, count))


def entries(count: int) -> list[str]:
    """Return a WordPiece vocabulary of so many entries: special tokens, letters, and words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    first = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters)]
    return first + words(count - len(first))


def _text(place: Path, sizes: Result) -> Result:
    """Write documents of mixed lengths, their words as rare as those of a language."""
    import numpy as np

    known = np.array(entries(sizes["vocabulary"])[len(SPECIALS) + 76 :])
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.2, 1.0, sizes["tokens"]), 4, 2000).astype(int) // sizes["scale"] + 2
    lengths = lengths[np.cumsum(lengths) <= sizes["tokens"]]
    chances = 1.0 / np.arange(3, len(known) + 3)
    drawn = known[draw.choice(len(known), lengths.sum(), p=chances / chances.sum())]
    lines = (" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1]))
    (place / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"documents": len(lengths), "tokens": int(lengths.sum()), "median": float(np.median(lengths))}


def tokenizer(sizes: Result) -> Any:
    from transformers import BertTokenizer

    vocabulary = {entry: number for number, entry in enumerate(entries(sizes["vocabulary"]))}
    return BertTokenizer(vocab=vocabulary, model_max_length=1024)


def _models(place: Path, sizes: Result) -> Result:
    """Write a BERT and a ModernBERT with new weights; both have the tokenizer of the text."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    hidden = sizes["hidden"]
    common = {"hidden_size": hidden, "num_attention_heads": hidden // 64, "max_position_embeddings": 1024}
    shapes = {
        "bert": {"vocab_size": sizes["vocabulary"], "num_hidden_layers": sizes["layers"], "intermediate_size": 4 * hidden},
        "modernbert": {"vocab_size": sizes["modern_vocabulary"], "num_hidden_layers": sizes["modern_layers"],
                       "intermediate_size": sizes["modern_inner"], "pad_token_id": 0, "cls_token_id": 2,
                       "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    }  # fmt: skip
    counts = {}
    for name, shape in shapes.items():
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **(common | shape)))
        model.save_pretrained(place / name)
        tokenizer(sizes).save_pretrained(place / name)
        counts[name] = sum(weight.numel() for weight in model.parameters())
    return {"parameters": counts}


def _shards(place: Path) -> Result:
    from ours import shards

    return shards(str(place / "shards"), str(place / "bert"), [str(place / "text.txt")], "line")


if __name__ == "__main__":
    run(sys.argv[1:])
