"""Is it worth changing the vocabulary? Keep, extend, trim, or extend and trim that of a small general encoder, and adapt it.

All four start from the same encoder and are adapted by the same number of optimizer steps of equal tokens. Where a word
takes fewer tokens, equal tokens are more words, so the words seen are given too. For `extend and trim` the words are added
first: they start as the mean of their subwords, which must still be there, and trimming keeps added words.

Two domains: biomedical articles, and the documentation of the installed Python packages, for which there are no tasks to
probe. Each variant is measured by bits per byte on held-out text of the domain and on general text, before and after
adapting, compared with `keep` on the same passages; by tokens per word, separated by white space; by its size; and in
turns by its speed, as tokens and words per second. Trimming looks at the text of the domain alone.

Finished parts are kept, but for those of speed; an interrupted call continues with the missing ones.
"""

from __future__ import annotations

import argparse
import shutil
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import adaptation
import harness
from harness import Result, middle, say

VARIANTS = {"keep": (), "extend": ("extend",), "trim": ("trim",), "extend and trim": ("extend", "trim")}
DOMAINS = ("biomedical", "documentation")
KINDS = {"domain": "heldout", "general": "forgetting_eval"}
RATES = ("training", "evaluation", "embedding")
_DECIDES = (
    "vocabulary",
    "base_steps",
    "preset",
    "add",
    "keep",
    "steps",
    "batch_tokens",
    "learning_rate",
    "length",
)
_WORDS_PER_TEXT = 50


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "")
    adaptation.add_encoder_options(made, base_steps=600)
    add = made.add_argument
    data = harness.DATA
    add("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS), help="what to adapt to")
    add("--characters", type=int, default=12_000_000, help="characters of documentation that are read")
    add("--tasks", nargs="*", type=Path, default=[data / "tasks" / name for name in adaptation.TASKS],
        metavar="FOLDER", help="labelled tasks of biomedical text")  # fmt: skip
    add("--add", type=int, default=1000, help="number of added words")
    add("--keep", type=float, default=0.999, help="share of the domain's tokens whose entries trimming keeps")
    add("--steps", type=int, default=100, help="steps of adapting")
    add("--batch-tokens", type=int, default=4096, help="tokens per step of adapting")
    add("--learning-rate", type=float, default=1e-3, help="of adapting")
    add("--seeds", type=int, default=1, help="runs of each variant")
    add("--bytes", type=int, default=10_000, help="bytes of each text that are scored for bits per byte")
    add("--probe-seeds", type=int, default=3, help="seeds per probe")
    add("--limit", type=int, default=500, help="maximum training examples per probe")
    add(
        "--no-speed",
        action="store_true",
        help="leave out speed, which needs a machine with nothing else to do",
    )
    add("--seconds", type=float, default=5.0, help="seconds per measurement of training speed")
    add("--parts", type=Path, default=harness.WORK / "vocabulary", help="folder for finished parts")
    return made


def work(args: argparse.Namespace) -> None:
    found: Result = {}
    document = harness.report("vocabulary", args, domains=found, goals=[])
    prepared = {}
    for name in args.domains:
        prepared[name] = domain = _Domain(args, name)
        found[name] = domain.quality()
        harness.write(args.json, document)
    document["goals"] = [goal for name in found for goal in _goals(name, found[name]["variants"])]
    for name in [] if args.no_speed else args.domains:
        found[name]["speed"] = prepared[name].speed()
    harness.write(args.json, document)
    for name, each in found.items():
        _show(name, each)
    harness.show_goals(document["goals"])


class _Domain:
    """One domain: its texts, the variants of the encoder, and what is measured of them."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        biomedical = name == DOMAINS[0]
        self.args = argparse.Namespace(**vars(args))
        self.args.domain = args.domain if biomedical else [*map(Path, harness.documentation(args.characters))]
        self.tasks = args.tasks if biomedical else []
        self.texts = adaptation.texts_of(self.args)
        self.name = name
        about = [self.args.base, {key: getattr(args, key) for key in _DECIDES}]
        about.append({kind: harness.fingerprint(files) for kind, files in self.texts.items()})
        self.place = args.parts / f"{name}-{harness.key_of(about)}"
        base = adaptation.base_model(self.args, self.texts)
        self.starts = {variant: self._start(variant, base) for variant in VARIANTS}
        self.shards = {variant: harness.once("shards", [harness.fingerprint(self.texts["domain"]), str(self.place)],
                                             "ours", "shards", {"start": start["model"], "files": self.texts["domain"],
                                                                "documents": "auto"})
                       for variant, start in self.starts.items()}  # fmt: skip

    def _part(self, name: str, module: str, function: str, settings: Result) -> Result:
        return harness.part(self.place, name.replace(" ", "-"), module, function, settings)

    def _start(self, variant: str, base: str) -> Result:
        """Change the vocabulary; what `extend` made is what `extend and trim` trims."""
        changed: Result = {"model": base}
        for number, change in enumerate(VARIANTS[variant], 1):
            name = "-".join(VARIANTS[variant][:number])
            given = {"out": str(self.place / name), "model": changed["model"], "texts": self.texts}
            if change == "extend":
                changed = self._part(name, "adaptation", "extend", given | {"add": self.args.add})
            else:
                changed = self._part(name, "vocabulary", "trim", given | {"keep": self.args.keep})
        size = {"model": changed["model"], "files": self.texts["heldout"]}
        return changed | self._part(f"size {variant}", "vocabulary", "sized", size)

    def quality(self) -> Result:
        """Return what is measured of each variant but its speed."""
        runs = {
            variant: [self._adapt(variant, seed) for seed in range(self.args.seeds)] for variant in VARIANTS
        }
        result: Result = {"texts": self.texts, "variants": {}}
        for variant, start in self.starts.items():
            result["variants"][variant] = start | {
                "runs": runs[variant],
                "words_seen": runs[variant][0]["tokens"] / start["tokens_per_word"],
                "probes": {task.name: self._probe(task, variant, runs[variant]) for task in self.tasks},
            }
        for variant in list(VARIANTS)[1:]:
            result["variants"][variant]["bits"] = [
                self._bits(variant, seed, keep["model"], run["model"])
                for seed, (keep, run) in enumerate(zip(runs["keep"], runs[variant], strict=True))
            ]
        return result

    def _adapt(self, variant: str, seed: int) -> Result:
        args, name = self.args, f"adapt {variant} {seed}".replace(" ", "-")
        flags = {"model.name": self.starts[variant]["model"], "data.inputs": [self.shards[variant]],
                 "data.heldout": self.texts["heldout"], "data.max_length": args.length,
                 "train.max_steps": args.steps, "train.batch_tokens": args.batch_tokens, "train.seed": seed,
                 "train.optimizer.learning_rate": args.learning_rate, "train.patience": 0,
                 "train.export_best": False, "train.eval_every": args.steps, "train.eval_tokens": 20_000,
                 "train.keep_last": 1}  # fmt: skip
        return self._part(name, "adaptation", "trained", {"out": str(self.place / name), "flags": flags})

    def _bits(self, variant: str, seed: int, keep: str, adapted: str) -> Result:
        pairs = {
            "before": (self.starts["keep"]["model"], self.starts[variant]["model"]),
            "after": (keep, adapted),
        }
        files = {kind: self.texts[name] for kind, name in KINDS.items()}
        settings = {"pairs": pairs, "texts": files, "most_bytes": self.args.bytes}
        return self._part(f"bits {variant} {seed}", "vocabulary", "bits", settings)

    def _probe(self, task: Path, variant: str, runs: list[Result]) -> list[Result]:
        settings = {"task": str(task.resolve()), "seeds": self.args.probe_seeds, "limit": self.args.limit}
        return [
            self._part(f"probe {task.name} {variant} {seed}", "adaptation", "probed", settings | {"model": run["model"]})
            for seed, run in enumerate(runs)
        ]  # fmt: skip

    def speed(self) -> dict[str, list[Result]]:
        """Measure the variants in turns."""
        sides = {variant: partial(self._rates, variant) for variant in VARIANTS}
        return harness.take_turns(sides, self.args.rounds, lambda what, rates: say(
            f"{self.name}, {what}: " + ", ".join(f"{name} {rates[name]:,.0f} words/s" for name in RATES)))  # fmt: skip

    def _rates(self, variant: str) -> Result:
        """Return words and tokens per second."""
        args, start = self.args, self.starts[variant]
        training = harness.run("ours", "speed", {
            "start": start["model"], "shards": self.shards[variant], "length": args.length, "warm_up": 3,
            "batch_tokens": args.batch_tokens, "precision": "auto", "seconds": args.seconds})  # fmt: skip
        use = harness.run("vocabulary", "used", {"model": start["model"], "files": self.texts["heldout"],
                                                 "length": args.length})  # fmt: skip
        tokens = {"training": training["tokens_per_second"], "evaluation": use["evaluation"],
                  "embedding": use["embedding"]}  # fmt: skip
        return {name: rate / start["tokens_per_word"] for name, rate in tokens.items()} | {
            f"{name}_tokens": rate for name, rate in tokens.items()
        }


# ---------------------------------------------------------------- measured in its own process


def trim(out: str, model: str, texts: Result, keep: float) -> Result:
    """Drop the entries that the text of a domain uses least."""
    from unmask.vocabulary.trim import trim_vocabulary

    shutil.rmtree(out, ignore_errors=True)
    return {
        "model": out,
        "trimmed": trim_vocabulary(model, texts["domain"], out, keep=keep, offline=True).to_dict(),
    }


def sized(model: str, files: list[str]) -> Result:
    """Return the size of a model, and its tokens of a text per word, without special tokens."""
    from unmask.data.batching import in_batches
    from unmask.data.tokenizer import TextEncoder, load_tokenizer
    from unmask.model.load import read_checkpoint

    loaded = read_checkpoint(model, offline=True).model
    weights = list(loaded.parameters())  # tied ones once
    rows = int(loaded.config.vocab_size)
    tokenizer, tokens, words = load_tokenizer(model, offline=True), 0, 0
    encode = TextEncoder(tokenizer)
    for batch in in_batches(_texts(files)):
        tokens += sum(map(len, encode(batch)))
        words += sum(len(text.split()) for text in batch)
    return {
        "entries": len(tokenizer),
        "parameters": sum(weight.numel() for weight in weights),
        "embedding_parameters": sum(weight.numel() for weight in weights if rows in weight.shape),
        "bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "tokens_per_word": tokens / words,
        "words": words,
    }


def bits(pairs: dict[str, list[str]], texts: dict[str, list[str]], most_bytes: int) -> Result:
    """Compare pairs of models by bits per byte of each text."""
    from unmask.config.settings import DocumentSettings
    from unmask.evaluation.cross_tokenizer import compare_bits
    from unmask.evaluation.text_cache import EvaluationText
    from unmask.model.load import load_for_inference

    found: Result = {kind: {} for kind in texts}
    for name, (base, model) in pairs.items():
        pair = load_for_inference(base, offline=True), load_for_inference(model, offline=True)
        for kind, files in texts.items():
            with EvaluationText(files, DocumentSettings()) as text:
                found[kind][name] = compare_bits(pair, text, most_bytes)
    return found


def used(model: str, files: list[str], length: int, tokens: int = 50_000) -> Result:
    """Return the tokens per second of evaluating, and of embedding the same texts of some words each."""
    from itertools import islice

    from unmask.evaluation.evaluate import EvaluationSettings, evaluate
    from unmask.inference.embed import Embedder
    from unmask.model.load import load_for_inference

    loaded = load_for_inference(model, precision="auto", offline=True)
    settings = EvaluationSettings(max_length=length, tokens=tokens, offline=True)
    embedder = Embedder(loaded)
    words = (text.split() for text in _texts(files))
    pieces = (" ".join(part[at : at + _WORDS_PER_TEXT])
              for part in words for at in range(0, len(part), _WORDS_PER_TEXT))  # fmt: skip
    texts = list(islice(pieces, tokens // _WORDS_PER_TEXT))
    rates = {}
    for name, compute, count in (
        ("evaluation", lambda: evaluate(loaded, files, settings)[0].tally.tokens, None),
        ("embedding", lambda: embedder(texts), sum(map(len, embedder.rows(texts)))),
    ):
        compute()  # warm
        begin = time.perf_counter()
        done = compute()
        rates[name] = (count or done) / (time.perf_counter() - begin)
    return rates


def _texts(files: list[str]) -> Any:
    from unmask.config.settings import DocumentSettings
    from unmask.data.reading.documents import DocumentReader

    return (document.text for document in DocumentReader(files, DocumentSettings(offline=True)))


# ---------------------------------------------------------------- results


def _values(variant: str, variants: Result, kind: str, when: str) -> list[float]:
    """Return bits per byte, for each seed; those of `keep` are of its comparison with `extend`."""
    runs = variants["extend" if variant == "keep" else variant]["bits"]
    return [run[kind][when]["models"][variant != "keep"]["value"] for run in runs]


def _ratio(variant: str, variants: Result, kind: str) -> float:
    pairs = [run[kind]["after"] for run in variants[variant]["bits"]]
    return mean(pair["models"][1]["value"] / pair["models"][0]["value"] for pair in pairs)


def _goals(name: str, variants: Result) -> list[Result]:
    size = variants["trim"]["bytes"] / variants["keep"]["bytes"]
    return [
        harness.goal(f"{name}: domain bits per byte, extend over keep", _ratio("extend", variants, "domain"), most=1.0),
        harness.goal(f"{name}: domain bits per byte, trim over keep", _ratio("trim", variants, "domain"), most=1.01),
        harness.goal(f"{name}: bytes of the model, trim over keep", size, most=0.75),
    ]  # fmt: skip


def _show(name: str, found: Result) -> None:
    variants = found["variants"]
    rows = []
    for variant, each in variants.items():
        bits = [cell for kind in KINDS for cell in _bits_cells(variant, variants, kind)]
        rows.append([variant, f"{each['entries']:,}", f"{each['parameters'] / 1e6:.2f} M",
                     f"{each['embedding_parameters'] / 1e6:.2f} M", f"{each['bytes'] / 1e6:.1f} MB",
                     f"{each['tokens_per_word']:.3f}", f"{each['words_seen']:,.0f}", *bits])  # fmt: skip
    bits = [f"{kind} {what}" for kind in KINDS for what in ("bits/byte before", "after", "over keep")]
    harness.table(
        [name, "entries", "parameters", "of embeddings", "weights", "tokens/word", "words seen", *bits], rows
    )
    left_out = sum(run[kind][when]["left_out"] for each in variants.values() for run in each.get("bits", ())
                   for kind in KINDS for when in ("before", "after"))  # fmt: skip
    if left_out:
        say(f"{name}: {left_out} passages, of all comparisons together, could not be scored by both models")
    tasks = list(variants["keep"]["probes"])
    if tasks:
        harness.table([f"{name}, F1 of a linear probe", *tasks], [
            [variant, *(_probe_cell(each["probes"][task]) for task in tasks)] for variant, each in variants.items()])  # fmt: skip
    else:
        say(f"{name}: no tasks, so there are no probes")
    if "speed" in found:
        header = [f"{rate} {unit}/s" for rate in RATES for unit in ("tokens", "words")]
        harness.table([name, *header], [
            [variant, *(f"{middle(rates, key):,.0f}" for rate in RATES for key in (f"{rate}_tokens", rate))]
            for variant, rates in found["speed"].items()])  # fmt: skip


def _bits_cells(variant: str, variants: Result, kind: str) -> list[str]:
    cells = [_spread(_values(variant, variants, kind, when)) for when in ("before", "after")]
    if variant == "keep":
        return [*cells, "-"]
    pairs = [run[kind]["after"] for run in variants[variant]["bits"]]
    if len(pairs) > 1:
        return [*cells, _spread([pair["difference"]["value"] for pair in pairs], "+")]
    difference = pairs[0]["difference"]
    if difference["interval"] is None:
        return [*cells, f"{difference['value']:+.3f}, too few passages for an interval"]
    low, high = difference["interval"]
    return [*cells, f"{difference['value']:+.3f} [{low:+.3f}, {high:+.3f}]"]


def _spread(values: list[float], sign: str = "") -> str:
    text = f"{mean(values):{sign}.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def _probe_cell(runs: list[Result]) -> str:
    values = [100 * value for run in runs for value in adaptation.main_metric(run["figures"])["values"]]
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
