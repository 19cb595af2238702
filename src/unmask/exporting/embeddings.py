"""Compare an exported model with the one that it was made from by their embeddings of held-out text.

Shapes: n tokens of a text, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import TextSource
from unmask.errors import ConfigError
from unmask.evaluation.heldout import evaluation_batches
from unmask.exporting.formats import FormPooling
from unmask.exporting.parity import ROUNDING
from unmask.model.masked_lm import MaskedLM
from unmask.model.trial import reason_of
from unmask.progress import Progress

TOKENS = 20_000
"""Most tokens that are embedded: only rounding is looked for."""
UNTRAINED = (
    "masked language modelling does not teach a model to compare texts: train this form with sentence-transformers "
    "before you search with it"
)


@dataclass(frozen=True)
class EmbeddingParity:
    """How the embeddings of an exported model differ from those of the one that it was made from.

    Attributes:
        texts, tokens: sequences of held-out text that were embedded, and their tokens.
        embedding: the largest difference of a number of an embedding.
        largest: the largest number of all embeddings.
        cosine: the smallest cosine of the two embeddings of a text.
        computed_by: the library that read the exported files, with its version.
        notes: what the form is not yet good for.
    """

    texts: int
    tokens: int
    embedding: float
    largest: float
    cosine: float
    computed_by: str
    notes: list[str]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row: ``texts``, and ``embedding`` and ``cosine``, the two extremes."""
        return [{"texts": self.texts, "embedding": self.embedding, "cosine": self.cosine}]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "largest_difference": {"embedding": self.embedding},
            "largest_number": self.largest,
            "smallest_cosine": self.cosine,
            "computed_by": self.computed_by,
            "notes": self.notes,
        }

    def why_refused(self) -> str | None:
        """Say why an exported model is not good enough; ``None`` if it is."""
        if self.embedding <= ROUNDING * max(1.0, self.largest):
            return None
        return (
            f"its embeddings are up to {self.embedding:.2g} off those of the model, whose largest number is "
            f"{self.largest:.3g}; at most {ROUNDING:g} of that is rounding"
        )


def compare_embeddings(
    original: MaskedLM,
    folder: Path,
    pooling: FormPooling,
    own: bool,
    source: TextSource,
    most: int | None = None,
    progress: Progress = Progress(),
) -> EmbeddingParity:
    """Embed the sequences of a text with a model and with the files of its export.

    Args:
        original: in fp32.
        folder: the exported files.
        pooling: how they embed.
        own: whether the modules after the encoder are the model's own.
        source: the text.
        most: tokens to read, :data:`TOKENS` at most.
        progress: gets the share done.

    Raises:
        ConfigError: the files cannot be loaded.
    """
    files = _Files(folder, pooling, own)
    most = min(most or TOKENS, TOKENS, source.tokens)
    texts = tokens = 0
    difference = largest = 0.0
    cosine = 1.0
    with torch.inference_mode(), original.evaluating():
        for batch in evaluation_batches(source, most):
            packed = source.pack(batch.sequence_ids)
            for ids in np.split(packed.input_ids, packed.cu_seqlens[1:-1]):
                pair = files.pooled(_outputs(original, ids, pooling)), files.embed(ids)
                first, second = (embedding.double() for embedding in pair)
                difference = max(difference, float((first - second).abs().max()))
                largest = max(largest, float(first.abs().max()))
                # Two embeddings without a number but zero are the same.
                same = torch.equal(first, second)
                cosine = min(cosine, 1.0 if same else float(torch.cosine_similarity(first, second, dim=0)))
            texts, tokens = texts + len(batch.sequence_ids), tokens + batch.tokens
            progress.advance(min(1.0, tokens / most), {"tokens": tokens})
    notes = [] if own else [UNTRAINED]
    if own and not files.whole:
        notes.append(
            "the modules after the encoder are copies; install sentence-transformers to compare them too"
        )
    return EmbeddingParity(texts, tokens, difference, largest, cosine, files.library, notes)


def _outputs(model: MaskedLM, ids: np.ndarray, pooling: FormPooling) -> Tensor:
    """Return what is pooled of a text of n tokens: hidden states, or logits."""
    if pooling == "splade":
        return model.document_logits(ids)
    return model.hidden_states(ids, np.array([0, len(ids)]))


class _Files:
    """An exported model as sentence-transformers reads it, or transformers alone where that is not installed.

    Attributes:
        library: which of the two, with its version.
        whole: whether it computes the modules after the encoder too.
    """

    def __init__(self, folder: Path, pooling: FormPooling, own: bool) -> None:
        self._pooling: FormPooling = pooling
        try:
            library, self.whole = import_module("sentence_transformers"), True
        except ImportError:
            library, self.whole = import_module("transformers"), False
        sparse = pooling == "splade"
        options: dict[str, Any] = {"local_files_only": True}
        if self.whole:
            load = library.SparseEncoder if sparse else library.SentenceTransformer
            options["device"] = "cpu"
        else:
            load = (library.AutoModelForMaskedLM if sparse else library.AutoModel).from_pretrained
        self.library = f"{library.__name__.replace('_', '-')} {library.__version__}"
        try:
            self._model = load(str(folder), **options).eval()
        except Exception as error:
            raise ConfigError(f"{self.library} cannot load what was written: {reason_of(error)}") from error
        self._after = list(self._model)[1:] if self.whole and own else []

    def embed(self, ids: np.ndarray) -> Tensor:
        """Return the ``[E]`` embedding of a text of n tokens."""
        given = torch.from_numpy(ids)[None]
        inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        if self.whole:
            embedding: Tensor = self._model(inputs)["sentence_embedding"][0]
            return embedding
        output = self._model(**inputs)
        return self.pooled((output.logits if self._pooling == "splade" else output.last_hidden_state)[0])

    def pooled(self, outputs: Tensor) -> Tensor:
        """Return the ``[E]`` embedding of what an encoder gives for n tokens."""
        if self._after:
            features = {
                "token_embeddings": outputs[None],
                "attention_mask": torch.ones(1, len(outputs), dtype=torch.long),
            }
            for module in self._after:
                features = module(features)
            return features["sentence_embedding"][0]
        if self._pooling == "splade":
            return outputs.relu().log1p().amax(0)
        return outputs.mean(0)
