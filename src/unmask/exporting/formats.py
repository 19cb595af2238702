"""The forms in which a model can be exported, and what writes each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from unmask.errors import ConfigError
from unmask.exporting.onnx import write_onnx, write_onnx_int8
from unmask.exporting.web import write_web

if TYPE_CHECKING:
    from unmask.model.masked_lm import MaskedLM


class Format(NamedTuple):
    """A form of a model.

    Attributes:
        what: in a few words.
        write: writes its files; ``config.json`` and the tokenizer are in the folder already.
        exact: whether it computes in fp32, as the model that it is made from.
        use: Python code that uses it, with ``FOLDER`` for its place.
    """

    what: str
    write: Callable[[MaskedLM, Path], None]
    exact: bool
    use: str


def _weights(dtype: torch.dtype) -> Callable[[MaskedLM, Path], None]:
    def write(model: MaskedLM, folder: Path) -> None:
        copy: nn.Module = deepcopy(model.model)  # a copy, so that tied weights stay tied
        copy.to(dtype)
        if not all(weight.isfinite().all() for weight in copy.parameters()):
            raise ConfigError("a weight is too large for fp16, whose largest number is 65,504; use bf16")
        copy.save_pretrained(folder)  # type: ignore[operator]

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

FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX in fp32", write_onnx, True, _UNMASK),
    "onnx-int8": Format("ONNX, dynamically quantised to 8 bits", write_onnx_int8, False, _UNMASK),
    "web": Format("a page on which the model runs in the browser, in 8 bits", write_web, False, _PAGE),
    "fp16": Format("safetensors in fp16", _weights(torch.float16), False, _TRANSFORMERS),
    "bf16": Format("safetensors in bf16", _weights(torch.bfloat16), False, _TRANSFORMERS),
}


def format_named(name: str) -> Format:
    """Return a form by its name.

    Raises:
        ConfigError: there is no such form.
    """
    if name not in FORMATS:
        raise ConfigError(f"no format '{name}'; there are {', '.join(FORMATS)}")
    return FORMATS[name]
