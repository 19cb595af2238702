"""Write a model as a folder of static files: a page on which it runs in the browser of whoever opens it.

The page is that of ``unmask serve``, with another ``backend.js``. The graph gets one more input, the places whose tokens are
predicted, so that the LM head computes these alone, as :class:`~unmask.model.onnx_graph.OnnxGraph` does in Python.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.config.settings import MaskingSettings
from unmask.data.tokenizer import TextEncoder, Vocabulary, plain_copy, token_names
from unmask.data.unknown import UNMEASURABLE
from unmask.data.words import PARTS_OF_CHARACTERS
from unmask.errors import ConfigError
from unmask.exporting.libraries import LIBRARIES, read_libraries
from unmask.exporting.onnx import int8_graph, is_large, save_graph
from unmask.inference.fill import FillMask
from unmask.inference.markers import MarkerEncoder, TokenWriter
from unmask.model.graph import HIDDEN, LOGITS, PLACES, ROWS, facts_of
from unmask.model.load import load_for_inference
from unmask.storage import JsonDict, read_json, write_json

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedTokenizerBase

    from unmask.model.base import LanguageModel
    from unmask.model.masked_lm import MaskedLM

MODEL = "onnx/model_web.onnx"
FACTS = "unmask.json"

SAMPLES = (
    "The patient was given morphine for the pain.",
    "Prices rose 3.5% (to $1,000) in 2024 – “really?” she asked… twice!",
    "Gestern früh fuhr der große Zug über die Brücke nach Zürich.",
    "L’élève a été reçu à l’école; ça ira, n’est-ce pas ?",
    "Сегодня утром поезд пришёл вовремя.",
    "Ο γιατρός ήρθε νωρίς το πρωί.",
    "ذهب الطبيب إلى المستشفى صباحا.",
    "रोगी को दवा दी गई।",
    "医生今天早上来了。",
    "彼女は毎朝コーヒーを飲みます。",
    "  two  spaces,\ttab, and\na new line 🙂👍🏽 ",
    "a literal [SEP] or </s> is text",
    "ΟΔΟΣ, İstanbul, 𠀀 丂, ½ ﬁ １２３ ｶﾞ",
)
"""Texts whose tokens the page compares with those of Python when it is loaded."""


def write_web(model: MaskedLM, folder: Path, libraries: Path | None = None, *, offline: bool = False) -> None:
    """Write the page, the model and what the page needs to know of it.

    Args:
        model: to export.
        folder: with ``config.json`` and the tokenizer in it.
        libraries: a folder with the archives of the JavaScript libraries; by default they are downloaded.
        offline: make no network call.

    Raises:
        ConfigError: a library is not to be had, the tokenizer is of a kind that the page cannot read, or the
            architecture cannot be exported.
    """
    require_readable(folder / "tokenizer.json")
    files = read_libraries(libraries, offline=offline)
    graph = int8_graph(model)
    if is_large(graph):
        raise ConfigError("the model takes more than 2 GB, which browsers cannot load")
    outputs = _add_places(graph)
    save_graph(graph, folder / MODEL, facts_of(model, "int8"))
    page = folder / "page"
    for source in (Path(__file__).parents[1] / "serving" / "page", Path(__file__).parent / "page"):
        for file in sorted(source.iterdir()):
            to = folder if file.suffix == ".html" else page
            to.mkdir(exist_ok=True)
            (to / file.name).write_bytes(file.read_bytes())
    (page / "libraries").mkdir()
    for name, content in files.items():
        (page / "libraries" / name).write_bytes(content)
    facts = facts_for_page(load_for_inference(folder, device="cpu", offline=True), _name(model.name))
    size = {"file": MODEL, "bytes": (folder / MODEL).stat().st_size, "outputs": outputs}
    write_json(folder / FACTS, {**size, **facts})


def _name(model: str) -> str:
    """Return how the page calls a model: not by its place on this machine."""
    path = Path(model)
    return path.parent.name if path.name == "model" else path.name


def _add_places(model: onnx.ModelProto) -> int:
    """Let the LM head of a graph compute ``int64 [places]`` of all rows alone; return the number of its logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    for node in graph.node:
        node.input[:] = [ROWS if name == HIDDEN else name for name in node.input]
    graph.input.append(helper.make_tensor_value_info(PLACES, TensorProto.INT64, ["places"]))
    width = _width(graph, HIDDEN)
    shape = numpy_helper.from_array(np.array([1, -1, width]), "flat_shape")
    graph.initializer.append(shape)
    new = [
        helper.make_node("Reshape", [HIDDEN, shape.name], ["flat_hidden_state"]),
        helper.make_node("Gather", ["flat_hidden_state", PLACES], [ROWS], axis=1),
    ]
    after = next(at for at, node in enumerate(graph.node) if HIDDEN in node.output) + 1
    every = [*graph.node[:after], *new, *graph.node[after:]]
    del graph.node[:]
    graph.node.extend(every)
    logits = next(value for value in graph.output if value.name == LOGITS)
    outputs = logits.type.tensor_type.shape.dim
    outputs[0].dim_value = 1
    outputs[1].dim_param = "places"
    del graph.value_info[:]
    graph.value_info.append(helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [1, "places", width]))
    onnx.checker.check_model(model)
    return int(outputs[2].dim_value)


def _width(graph: onnx.GraphProto, name: str) -> int:
    value = next(value for value in graph.output if value.name == name)
    return int(value.type.tensor_type.shape.dim[2].dim_value)


def facts_for_page(model: LanguageModel, name: str) -> JsonDict:
    """Return what the page needs to know of an exported model and its tokenizer, ready for JSON."""
    tokenizer, vocabulary = model.tokenizer, model.vocabulary
    filler, encoder = FillMask(model, blanks=False), MarkerEncoder(tokenizer, blanks=False)
    return {
        "name": name,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "max_length": model.max_length,
        "shortest": model.shortest,
        "takes_token_types": model.takes_token_types,
        "size": vocabulary.size,
        "mask_token": str(tokenizer.mask_token),
        "mask_id": vocabulary.mask_id,
        "pad_id": vocabulary.pad_id,
        "unknown_id": encoder.unknown_id,
        "unmeasurable": UNMEASURABLE,
        "prefix": list(vocabulary.prefix),
        "suffix": list(vocabulary.suffix),
        "special": np.flatnonzero(vocabulary.special).tolist(),
        "never_filled": np.flatnonzero(~filler.candidates).tolist(),
        "never_drawn": np.setdiff1d(np.arange(vocabulary.size), vocabulary.replacements).tolist(),
        "masking": MaskingSettings().model_dump(),
        **_reading(tokenizer),
        **_writing(tokenizer, vocabulary, TokenWriter(tokenizer, encoder)),
        "checks": _checks(tokenizer, vocabulary, filler, encoder),
    }


def _reading(tokenizer: PreTrainedTokenizerBase) -> JsonDict:
    """Return how :func:`plain_copy` changes the tokenizer: new names of control tokens, and what is read in text."""
    core = plain_copy(tokenizer)
    added = json.loads(plain_copy(tokenizer, read_mask=True).to_str())["added_tokens"]
    names = [(entry, core.id_to_token(number)) for entry, number in tokenizer.get_vocab().items()]
    return {
        "hidden": {old: new for old, new in names if new not in (None, old)},
        "added": [token for token in added if not token["special"]],
    }


def _writing(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, writer: TokenWriter) -> JsonDict:
    """Return how tokens are shown, where it is not the entry of the vocabulary without its mark, and how they form words."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    mark = writer.opening or definition["model"].get("continuing_subword_prefix") or ""
    entries = {
        number: entry for entry, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    }
    texts = {number: writer.text((number,)) for number in entries}
    names = dict(zip(entries, token_names(tokenizer, vocabulary, [*entries]), strict=True))
    words = vocabulary.words
    partial = [] if words is None else np.flatnonzero(words.flags & PARTS_OF_CHARACTERS).tolist()
    return {
        "mark": mark,
        "texts": {
            number: text for number, text in texts.items() if text != entries[number].removeprefix(mark)
        },
        "names": {number: name for number, name in names.items() if name != entries[number]},
        "flags": None if words is None else base64.b64encode(words.flags.tobytes()).decode(),
        "bytes_of": {} if words is None else {number: list(words.spelling[number]) for number in partial},
    }


def _checks(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, filler: FillMask, encoder: MarkerEncoder
) -> JsonDict:
    """Return what the page compares with its own results: tokens of some texts, and one prediction."""
    text = f"The {tokenizer.mask_token} is here."
    ids = vocabulary.framed(encoder([text])[0].body)
    filled = filler(text, 5)
    return {
        "texts": [
            {"text": text, "ids": ids.tolist()}
            for text, ids in zip(SAMPLES, TextEncoder(tokenizer)(SAMPLES), strict=True)
        ],
        "prediction": {
            "ids": ids.tolist(),
            "place": filled.masks[0],
            "best": [[one.token_ids[0], one.score] for one in filled.candidates],
        },
    }


_READABLE = {
    "normalizer": "BertNormalizer Precompiled Sequence Replace NFC NFD NFKC NFKD Strip StripAccents Lowercase Prepend",
    "pre_tokenizer": "BertPreTokenizer Sequence Whitespace WhitespaceSplit Metaspace ByteLevel Split Punctuation Digits "
    "Replace FixedLength",
    "model": "WordPiece BPE Unigram",
}
"""The steps of a tokenizer that the library has."""


def require_readable(path: Path) -> None:
    """Raise :class:`ConfigError` if a ``tokenizer.json`` has a step that the library for browsers lacks."""
    definition: JsonDict = read_json(path)
    for part, known in _READABLE.items():
        for kind in _kinds(definition.get(part)):
            if kind not in known.split():
                raise ConfigError(
                    f"the tokenizer cannot run in a browser: its {part.replace('_', '-')} '{kind}' is none that "
                    f"{LIBRARIES[0].title} has ({known.replace(' ', ', ')}). Use --format onnx-int8, and unmask serve"
                )


def _kinds(part: JsonDict | None) -> Iterator[str]:
    if part:
        yield part["type"]
        for inner in part.get("normalizers") or part.get("pretokenizers") or ():
            yield from _kinds(inner)
