"""The held-out text of a finished run."""

from __future__ import annotations

from unmask.config.load import load_config
from unmask.data.batches import TextSource
from unmask.data.corpus import given_shards, is_corpus, open_shards
from unmask.data.document_set import DocumentSet
from unmask.data.split import split_documents
from unmask.model.base import LanguageModel
from unmask.progress import Progress
from unmask.run.components import sequence_length
from unmask.run_folder import HELDOUT_SHARDS, RunFolder


def heldout_of(folder: RunFolder, model: LanguageModel, progress: Progress = Progress()) -> TextSource | None:
    """Return the held-out text of a run with the masks of its evaluations; ``None`` where its shards are gone.

    Where a run was masked by a strategy of its own, which is not in its folder, single tokens are masked.

    Raises:
        DataError: the shards are damaged, or those of another tokenizer.
    """
    config = load_config(folder.config)
    data = config.data
    shards = given_shards(data.heldout or data.inputs, progress)
    shards = shards or folder.root / (HELDOUT_SHARDS if data.heldout else folder.shards.name)
    if not is_corpus(shards):
        return None
    corpus = open_shards(shards, model.tokenizer, allow_unknown=True, progress=progress)
    minimum = data.heldout_minimum or 1  # runs of earlier versions had none
    documents = (
        DocumentSet(len(corpus)) if data.heldout else split_documents(corpus, data.heldout_share, minimum)[1]
    )
    if documents is None:
        return None
    length = sequence_length(data, model)
    masking = config.masking
    if masking.strategy == "custom":  # the function is not in the folder
        masking = masking.model_copy(update={"strategy": "token"})
    return TextSource(corpus, documents, model.vocabulary, masking, length, data.overlap)
