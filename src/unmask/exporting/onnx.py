"""Write a model as ONNX: ``onnx/model.onnx``, or ``onnx/model_quantized.onnx`` in int8, where transformers.js looks."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.exporting.quantize import quantized
from unmask.model.graph import HIDDEN, INPUTS, LOGITS, facts_of
from unmask.model.onnx_graph import FACTS

if TYPE_CHECKING:
    import onnx

    from unmask.model.masked_lm import MaskedLM

OPSET = 18
"""What ONNX Runtime for browsers takes as well."""
_LARGEST = 1_900_000_000  # bytes in one file: a message of Protocol Buffers ends at 2 GB


def write_onnx(model: MaskedLM, folder: Path) -> None:
    """Write a model in fp32.

    Raises:
        ConfigError: the exporter of PyTorch cannot take the architecture.
    """
    save_graph(exported_graph(model), folder / "onnx" / "model.onnx", facts_of(model, "fp32"))


def write_onnx_int8(model: MaskedLM, folder: Path) -> None:
    """Write a model with its matrices in 8 bits (:mod:`unmask.exporting.quantize`).

    Raises:
        ConfigError: as :func:`write_onnx`.
    """
    save_graph(int8_graph(model), folder / "onnx" / "model_quantized.onnx", facts_of(model, "int8"))


def save_graph(made: onnx.ModelProto, path: Path, facts: Any) -> None:
    """Write a graph with what it records of the model; weights of more than 1.9 GB go to a file beside it."""
    import onnx

    entry = made.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(facts)
    path.parent.mkdir(exist_ok=True)
    large = is_large(made)
    onnx.save(made, path, save_as_external_data=large, location=f"{path.name}_data" if large else None)


def is_large(made: onnx.ModelProto) -> bool:
    """Return whether the weights are too many for one file."""
    return sum(len(weight.raw_data) for weight in made.graph.initializer) > _LARGEST


def int8_graph(model: MaskedLM) -> onnx.ModelProto:
    """Return a model as a graph in 8 bits.

    Raises:
        ConfigError: as :func:`write_onnx`.
    """
    made = exported_graph(model)
    with _quiet():
        return quantized(made)


def exported_graph(model: MaskedLM) -> onnx.ModelProto:
    """Return a model as a graph in fp32.

    Raises:
        ConfigError: as :func:`write_onnx`.
    """
    names = [name for name in INPUTS if name in ("input_ids", "attention_mask") or model.takes_token_types]
    ids, real = model.padded(*_two_texts(model))
    example = torch.from_numpy(real.astype("int64"))
    inputs = (ids["input_ids"].cpu(), example, torch.zeros_like(example))[: len(names)]
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    traced = _WithHidden(model)
    with model.plain() as plain, model.evaluating(), _quiet(), torch.enable_grad():
        device = plain.device
        try:
            # Plain matrix products become fewer operations than scaled_dot_product_attention does.
            with contextlib.suppress(ValueError, ImportError):
                plain.set_attn_implementation("eager")
            program = torch.onnx.export(
                traced.to("cpu"),
                inputs,
                input_names=names,
                output_names=[LOGITS, HIDDEN],
                dynamic_shapes=(shape,) * len(names),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"PyTorch cannot export {model.architecture} to ONNX: {reason}") from error
        finally:
            traced.hook.remove()
            plain.to(device)  # type: ignore[arg-type]
    if program is None:
        raise ConfigError(f"PyTorch cannot export {model.architecture} to ONNX")
    made: onnx.ModelProto = program.model_proto
    if any(side.dim_value for given in made.graph.input for side in given.type.tensor_type.shape.dim):
        raise ConfigError(
            f"PyTorch exports {model.architecture} to ONNX for texts of one length only; use fp16 or bf16"
        )
    parts = made.graph
    for part in (*parts.node, *parts.initializer, *parts.value_info, *parts.input, *parts.output):
        part.ClearField("metadata_props")  # the lines of code it comes from, with their place on this machine
    return made


class _WithHidden(nn.Module):
    """Returns the logits, and the hidden states that the LM head computes them from."""

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.model = model.model
        self._hidden: list[Tensor] = []
        self.hook = model.head.register_forward_pre_hook(lambda _, given: self._hidden.append(given[0]))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        self._hidden.clear()
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits, self._hidden[0]


def _two_texts(model: MaskedLM) -> tuple[Any, Any]:
    """Return the ids of two sequences end to end, and their lengths."""
    import numpy as np

    lengths = np.array([model.shortest + 9, model.shortest + 5])
    return np.resize(model.vocabulary.replacements, lengths.sum()), lengths


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of exporter and quantiser, which concern their developers, off the screen."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
