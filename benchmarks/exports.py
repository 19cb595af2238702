"""What the exported forms of a model cost and bring: parity, size and speed, each compared with unmask in PyTorch, fp32.

Eight architectures with new weights and BERT's vocabulary, and the models given with --model. Every form is exported and
compared at the masked tokens of the text as `unmask export` does, then fills and embeds texts of about 20 tokens in turns
with the model in PyTorch, as `unmask bench` does. A row is written as soon as it is measured; rows of an earlier call with
the same settings are kept. New weights predict nothing: their accuracy says little, their log-probabilities all.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import Result, say

NEW = ("bert", "roberta", "distilbert", "electra", "albert", "xlm-roberta", "modernbert", "deberta-v2")
FORMS = ("onnx", "onnx-int8", "openvino", "openvino-int8", "fp16", "bf16")
ALONE, EMBED = "fill, one after another", "embed"
FASTER, SMALLER, POINTS = 2.0, 0.3, 0.5


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    add = made.add_argument
    add(
        "--model",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="models to measure beside those with new weights",
    )
    add("--only", nargs="+", metavar="NAME", help=f"of {', '.join(NEW)} and the names of --model")
    add("--formats", nargs="+", default=FORMS, metavar="FORMAT", help="forms to export")
    harness.add_size(made, "the models")
    add("--tokens", type=int, default=50_000, help="tokens of the text to compare on")
    add("--seconds", type=float, default=20.0, help="seconds to measure the speed of each side of a row")
    add("--threads", type=int, help="threads for both sides")
    return made


def work(args: argparse.Namespace) -> None:
    given = {Path(model).name or model: model for model in args.model}
    names = args.only or [*NEW, *given]
    if unknown := [name for name in names if name not in (*NEW, *given)]:
        raise harness.Failure(f"no model {', '.join(unknown)}; there are {', '.join((*NEW, *given))}")
    (text,) = harness.texts(args.text, 1)
    shape = {"text": text, "tokens": args.tokens, "seconds": args.seconds, "threads": args.threads}
    document = harness.report("exports", args, text=text, rows=[])
    for name in names:
        model = str(Path(given[name]).resolve()) if name in given else _new(name, args)
        for form in args.formats:
            settings = {"model": model, "form": form} | shape
            part = f"{name}-{form}-{harness.key_of(settings)}"
            found = harness.part(harness.WORK / "exports", part, "exports", "measure", settings)
            document["rows"].append({"model": name, "form": form} | found)
            say(" ".join(_row(document["rows"][-1])))
            harness.write(args.json, document | {"goals": _goals(document["rows"])})
    header = ["model", "form", "log-prob.", "accuracy", "95%", "size", "fill/s", "", "embed/s", ""]
    harness.table(header, [_row(row) for row in document["rows"]])
    harness.show_goals(_goals(document["rows"]))


def _new(name: str, args: argparse.Namespace) -> str:
    if not args.vocabulary.is_file():
        raise harness.Failure(
            f"no such vocabulary: {args.vocabulary}; name a WordPiece vocab.txt with --vocabulary"
        )
    layers, hidden = args.size
    settings = {
        "vocabulary": str(args.vocabulary.resolve()),
        "name": name,
        "layers": layers,
        "hidden": hidden,
    }
    return harness.once(f"new-{name}-{layers}x{hidden}", "weights", "exports", "make_new", settings)


# ---------------------------------------------------------------- each in its own process


def make_new(out: str, vocabulary: str, name: str, layers: int, hidden: int) -> Result:
    """Write a model with new weights and a WordPiece tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, BertTokenizer

    entries = Path(vocabulary).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer = BertTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, model_max_length=512
    )
    ids = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id}
    ids |= {"sep_token_id": tokenizer.sep_token_id, "bos_token_id": None, "eos_token_id": None}
    heads, inner = hidden // 64, 4 * hidden
    shape: Result = {"vocab_size": len(entries), "max_position_embeddings": 514 if "roberta" in name else 512}
    if name == "distilbert":
        shape |= {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": inner}
    else:
        shape |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
        shape |= {"intermediate_size": inner}
    if name == "deberta-v2":
        shape |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
        shape |= {"position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    torch.manual_seed(0)
    partial = Path(out + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **(shape | ids))).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
    return {}


def measure(model: str, form: str, text: str, tokens: int, seconds: float, threads: int | None) -> Result:
    """Export a form, compare it with its model, and measure the speed of both in turns."""
    import torch

    import unmask

    if threads:
        torch.set_num_threads(threads)
    shared: Any = {"offline": True, "progress": False}
    with tempfile.TemporaryDirectory(prefix="unmask-exports-") as place:
        out = Path(place, form)
        made = unmask.export(model, out, form, [Path(text)], tokens=tokens, force=True, **shared).to_dict()
        speeds = unmask.bench([Path(text)], models=[model, out], seconds=seconds, **shared).to_dict()
    del made["folder"]
    size = made["megabytes"] / made["megabytes_fp32"]
    first, second = ({key: side[key] for key in ("texts_per_second", "ratio")} for side in speeds["models"])
    return {**made, "size": size, "threads": speeds["threads"], "pytorch": first, "exported_speed": second}


# ---------------------------------------------------------------- results


def _row(row: Result) -> list[str]:
    accuracy = row["difference"]["accuracy"]
    ends = " to ".join(f"{100 * end:+.2f}" for end in accuracy["interval"] or ()) or "-"
    speed = row["exported_speed"]
    cells = [row["model"], row["form"], f"{row['largest_difference']['log_probability']:.1e}"]
    cells += [f"{100 * accuracy['value']:+.2f}", ends, f"{row['size']:.2f}x"]
    for use in (ALONE, EMBED):
        cells += [f"{speed['texts_per_second'][use]:.1f}", f"{speed['ratio'][use]:.2f}x"]
    return cells


def _goals(rows: list[Result]) -> list[Result]:
    goals = []
    for row in (row for row in rows if row["form"] == "onnx-int8"):
        name, points = row["model"], 100 * row["difference"]["accuracy"]["value"]
        speed = row["exported_speed"]["ratio"][ALONE]
        goals += [
            harness.goal(f"{name}, int8: fills one after another, times PyTorch", speed, least=FASTER),
            harness.goal(f"{name}, int8: size, times fp32", row["size"], most=SMALLER),
        ]
        if name not in NEW:  # new weights are right by chance only, so they have no accuracy to lose
            goals.append(harness.goal(f"{name}, int8: points of accuracy", points, least=-POINTS))
    return goals


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
