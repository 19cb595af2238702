"""A masked language model that was exported: the same interface as in PyTorch, computed by another runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.tokenizer import load_tokenizer, tokenizer_hash
from unmask.errors import ConfigError, UnmaskError
from unmask.model.base import LanguageModel
from unmask.model.graph import HIDDEN, INPUTS, LOGITS, Feed, Graph
from unmask.progress import Progress
from unmask.run_folder import EXPORTED, model_folder
from unmask.storage import JsonDict, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ExportedModel(LanguageModel):
    """An exported model, on the CPU.

    Args:
        graph: the model in its runtime.
        tokenizer: that lies beside it.
        config: its ``config.json``.
        name: what it was loaded from.

    Raises:
        ConfigError: tokenizer and model do not belong to each other.
    """

    def __init__(self, graph: Graph, tokenizer: PreTrainedTokenizerBase, config: JsonDict, name: str) -> None:
        super().__init__(tokenizer)
        self.graph, self.config, self._name = graph, config, name
        self._checks: list[Callable[[], None]] = []
        facts = graph.facts
        if facts.get("tokenizer") not in (None, tokenizer_hash(tokenizer)):
            raise ConfigError(
                f"'{name}' was exported with another tokenizer than the one beside it; export the model again"
            )
        if facts.get("architecture", self.architecture) != self.architecture:
            raise ConfigError(
                f"'{name}' was exported from a {facts['architecture']}, the config.json beside it is that of a "
                f"{self.architecture}; export the model again"
            )
        if LOGITS not in graph.outputs:
            raise ConfigError(
                f"'{name}' is no masked language model: it has the outputs {', '.join(sorted(graph.outputs))}, not "
                f"'{LOGITS}'; export the model with its LM head"
            )
        if "input_ids" not in graph.inputs or graph.inputs - set(INPUTS):
            raise ConfigError(
                f"'{name}' has the inputs {', '.join(sorted(graph.inputs))}; expected {', '.join(INPUTS)}"
            )
        self.shortest = int(facts.get("shortest", 1))
        self.batching = facts.get("batching", "padded")
        self.max_length = min(int(tokenizer.model_max_length), self._positions())
        trial = np.resize(self.vocabulary.replacements, self.shortest + 1)
        try:
            size = self.document_logits(trial).shape[-1]
        except UnmaskError as error:
            raise ConfigError(str(error)) from error
        if size < self.vocabulary.size:
            raise ConfigError(
                f"'{name}' is of another model than the tokenizer beside it: it predicts {size:,} tokens, the tokenizer "
                f"has {self.vocabulary.size:,}"
            )

    def _positions(self) -> int:
        """Return the most tokens that the model takes: as recorded, or as its table of positions allows."""
        limit = self.config.get("max_position_embeddings")
        if recorded := self.graph.facts.get("max_length"):
            return int(recorded)
        if not isinstance(limit, int) or limit <= 0:
            return 1 << 30
        roberta = self.config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "esm")
        return limit - (self.vocabulary.pad_id + 1 if roberta else 0)

    @property
    def name(self) -> str:
        return self._name

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures") or [self.graph.facts.get("architecture")]
        return str(named[0] or self.config.get("model_type", "unknown"))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def precision_name(self) -> str:
        return str(self.graph.facts.get("precision", "as exported"))

    @property
    def parameters(self) -> int:
        return self.graph.parameters

    @cached_property
    def hidden_size(self) -> int:
        if HIDDEN not in self.graph.outputs:
            return 0
        trial = np.resize(self.vocabulary.replacements, self.shortest)
        return self.hidden_states(trial, np.array([0, len(trial)])).shape[-1]

    @property
    def takes_token_types(self) -> bool:
        return INPUTS[2] in self.graph.inputs and int(self.config.get("type_vocab_size", 1)) > 1

    def before_each_pass(self, check: Callable[[], None]) -> None:
        self._checks.append(check)

    def target_logits(self, batch: Batch) -> Tensor:
        parts = []
        for ids, lengths, targets in self.blocks(batch.input_ids, batch.cu_seqlens, batch.target_index):
            feed, real = self._feed(ids, lengths)
            logits = self.graph.logits(feed, np.flatnonzero(real)[targets])
            parts.append(torch.from_numpy(logits))
        return torch.cat(parts)

    def hidden_states(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> Tensor:
        if HIDDEN not in self.graph.outputs:
            raise ConfigError(
                f"'{self.name}' has no output '{HIDDEN}', so it gives no embeddings; export it with unmask"
            )
        parts = []
        for ids, lengths, _ in self.blocks(input_ids, cu_seqlens):
            feed, real = self._feed(ids, lengths)
            parts.append(torch.from_numpy(self.graph.hidden_states(feed)[real]))
        return torch.cat(parts)

    def document_logits(self, input_ids: np.ndarray, token_type_ids: np.ndarray | None = None) -> Tensor:
        feed, real = self._feed(input_ids, np.array([len(input_ids)]))
        if token_type_ids is not None and INPUTS[2] in feed:
            feed[INPUTS[2]][real] = token_type_ids
        return torch.from_numpy(self.graph.logits(feed, np.flatnonzero(real)))

    def _feed(self, input_ids: np.ndarray, lengths: np.ndarray) -> tuple[Feed, np.ndarray]:
        for check in self._checks:
            check()
        ids, real = self.pad(input_ids, lengths)
        given = dict(zip(INPUTS, (ids, real.astype(np.int64), np.zeros_like(ids)), strict=True))
        return {name: given[name] for name in self.graph.inputs}, real


def exported_file(name: str) -> Path | None:
    """Return the exported model that a name means: a file, or the only one of a folder without PyTorch weights.

    Raises:
        ConfigError: the folder has several.
    """
    path = Path(name)
    if path.suffix in EXPORTED and path.is_file():
        return path
    found = exported_files(path)
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise ConfigError(
            f"'{name}' holds several exported models ({names}); give one of these files, for example {found[0]}"
        )
    return found[0] if found else None


def exported_files(folder: Path) -> list[Path]:
    """Return the exported models of a folder; none where it has PyTorch weights, which come first."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return []
    # Without config.json, files of XML are probably something else.
    kinds = EXPORTED if (folder / "config.json").is_file() else {".onnx": EXPORTED[".onnx"]}
    patterns = [f"{place}*{suffix}" for suffix, below in kinds.items() for place in ("", f"{below}/")]
    return sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def load_exported(
    path: Path,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress = Progress(),
) -> ExportedModel:
    """Load an exported model with the tokenizer beside it.

    Raises:
        ConfigError: its runtime is not installed, the file is damaged or of another model, or a GPU or another precision
            is asked for.
    """
    if device in ("cuda", "mps"):
        raise ConfigError(
            f"'{path}' is an exported model, which computes on the CPU; use --device=cpu or auto"
        )
    if precision == "bf16":
        raise ConfigError(
            f"'{path}' is an exported model, whose precision is fixed; leave --precision out, or give the model itself"
        )
    folder = Path(model_folder(str(path)))
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer or folder), offline=True, progress=progress)
    config: JsonDict = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ConfigError(
            f"'{path}' needs the config.json of its model in {folder}, where there is none; copy it there from that model"
        )
    graph = _READERS[path.suffix](path)
    return ExportedModel(graph, tokenizer, config, str(path))


def _onnx(path: Path) -> Graph:
    from unmask.model.onnx_graph import OnnxGraph

    return OnnxGraph(path)


def _openvino(path: Path) -> Graph:
    from unmask.model.openvino_graph import OpenVinoGraph

    return OpenVinoGraph(path)


_READERS: dict[str, Callable[[Path], Graph]] = {".onnx": _onnx, ".xml": _openvino}
