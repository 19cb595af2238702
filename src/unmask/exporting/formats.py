"""The forms in which a model can be exported, and what writes each. Light to import: the command line lists them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from unmask.errors import ConfigError, require_packages
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from unmask.model.masked_lm import MaskedLM

FormPooling = Literal["mean", "splade"]
"""What makes an embedding of a text: the mean of its hidden states, or the largest logit of each entry of the vocabulary."""
Writer = Callable[["MaskedLM", Path], None]


class Format(NamedTuple):
    """A form of a model.

    Attributes:
        what: in a few words.
        write: writes its files; ``config.json`` and the tokenizer are in the folder already, and the modules of a
            sentence-transformers model where it has fitting ones.
        exact: whether it computes in fp32, as the model that it is made from.
        use: Python code that uses it, with ``FOLDER`` for its place.
        pooling: how it embeds texts, where it gives embeddings; these are compared then, not masked tokens.
        metadata: what it changes in the metadata of the card.
        extra: the extra that writes it, where one is needed.
    """

    what: str
    write: Writer
    exact: bool
    use: str
    pooling: FormPooling | None = None
    metadata: JsonDict = {}
    extra: Literal["export", "openvino"] | None = None

    def require_packages(self) -> None:
        """Look for the packages that write it, before any work.

        Raises:
            MissingExtra: one of them is not installed.
        """
        if self.extra:
            name, *packages = _PACKAGES[self.extra]
            require_packages(packages, self.extra, f"exporting to {name}")


_PACKAGES = {
    "export": ("ONNX", "onnx", "onnxruntime", "onnxscript"),
    "openvino": ("OpenVINO", "openvino", "onnx", "onnxruntime", "onnxscript"),
}


def _writer(module: str, name: str) -> Writer:
    """Return a function of a module of this package, which is imported when something is written."""

    def write(model: MaskedLM, folder: Path) -> None:
        getattr(import_module(f"unmask.exporting.{module}"), name)(model, folder)

    return write


_TRANSFORMERS = """\
from transformers import pipeline

pipeline("fill-mask", "FOLDER")("…")"""
_UNMASK = """\
import unmask

unmask.load("FOLDER").fill("…")"""
_PAGE = f"""\
# In a browser: python -m http.server --directory FOLDER
{_UNMASK}"""
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

SentenceTransformer("FOLDER").encode(["…"])"""
_SPARSE = """\
from sentence_transformers import SparseEncoder

SparseEncoder("FOLDER").encode(["…"])"""

_LIBRARY = {"library_name": "sentence-transformers", "tags": ["sentence-transformers"]}

FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX in fp32", _writer("onnx", "write_onnx"), True, _UNMASK, extra="export"),
    "onnx-int8": Format(
        "ONNX, dynamically quantised to 8 bits",
        _writer("onnx", "write_onnx_int8"),
        False,
        _UNMASK,
        extra="export",
    ),
    "openvino": Format(
        "OpenVINO in fp32", _writer("openvino", "write_openvino"), True, _UNMASK, extra="openvino"
    ),
    "openvino-int8": Format(
        "OpenVINO, weights in 8 bits",
        _writer("openvino", "write_openvino_int8"),
        False,
        _UNMASK,
        extra="openvino",
    ),
    "web": Format(
        "a page on which the model runs in the browser, in 8 bits",
        _writer("web", "write_web"),
        False,
        _PAGE,
        extra="export",
    ),
    "sentence-transformers": Format(
        "an encoder with pooling for sentence-transformers",
        _writer("sentences", "write_sentence_transformer"),
        True,
        _SENTENCES,
        "mean",
        _LIBRARY | {"pipeline_tag": "sentence-similarity"},
    ),
    "splade": Format(
        "a sparse encoder (SPLADE) for sentence-transformers",
        _writer("sentences", "write_sparse_encoder"),
        True,
        _SPARSE,
        "splade",
        _LIBRARY
        | {
            "pipeline_tag": "feature-extraction",
            "tags": ["sentence-transformers", "sparse-encoder", "splade"],
        },
    ),
    "fp16": Format("safetensors in fp16", _writer("half", "write_fp16"), False, _TRANSFORMERS),
    "bf16": Format("safetensors in bf16", _writer("half", "write_bf16"), False, _TRANSFORMERS),
}


def format_named(name: str) -> Format:
    """Return a form by its name.

    Raises:
        ConfigError: there is no such form.
    """
    if name not in FORMATS:
        raise ConfigError(f"no format '{name}'; there are {', '.join(FORMATS)}")
    return FORMATS[name]
