"""Ranks of relevant passages by exact search, and the metrics of retrieval: nDCG, recall and mean reciprocal rank.

The product of all query and passage vectors is computed in blocks of queries, and only the ranks of relevant passages are
kept: these are all that the metrics need, and they are exact to the last passage. Metrics are those of trec_eval.

Shapes: Q queries, N passages, V different vectors of passages, H hidden size, R relevant passages of a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unmask.errors import DivergedError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

METRICS = ("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr")
"""The metrics of a query, in the order of :func:`query_metrics`; the first is the main one."""
RECALLS = {"recall_at_10": 10, "recall_at_100": 100}
"""Those that are 1 whatever the ranks, where there are no more passages than this."""

_BLOCK = 1 << 24  # scores in memory at a time, 64 MB


def unit_length(vectors: Floats) -> Floats:
    """Return vectors divided by their lengths, so that products are cosines; zeros stay zeros.

    Raises:
        DivergedError: a vector is NaN or infinite.
    """
    if not np.isfinite(vectors).all():
        raise DivergedError("the model gives vectors that are NaN or infinite; try --precision fp32")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def relevant_ranks(
    queries: Floats,
    passages: Floats,
    vector_of: Ints,
    relevant: Sequence[Ints],
    order: Ints,
    excluded: Ints,
    block: int = _BLOCK,
) -> Iterator[Ints]:
    """Yield the ranks, from 1, of the relevant passages of each query among all passages.

    Passages of equal score, such as copies, are ranked by ``order``.

    Args:
        queries: ``[Q, H]`` vectors of queries.
        passages: ``[V, H]`` vectors of passages, each once.
        vector_of: ``[N]`` the vector of each passage; those with one vector have one score.
        relevant: Q arrays ``[R]`` of passages.
        order: ``[N]`` place of each passage among those of equal score.
        excluded: ``[Q]`` a passage that a query does not look at, or -1.
        block: scores to keep in memory at a time; those of one query at least.
    """
    rows = max(1, block // max(len(vector_of), 1))
    each_once = np.array_equal(vector_of, np.arange(len(passages)))
    for begin in range(0, len(queries), rows):
        scores = queries[begin : begin + rows] @ passages.T
        if not each_once:
            scores = scores[:, vector_of]
        for row, place in zip(scores, range(begin, begin + len(scores)), strict=True):
            yield ranks_of(row, relevant[place], order, int(excluded[place]))


def ranks_of(scores: Floats, relevant: Ints, order: Ints, excluded: int = -1) -> Ints:
    """Return the ranks, from 1, of the relevant passages of one query by ``[N]`` scores, which are changed.

    Args: as of :func:`relevant_ranks`, of one query.
    """
    if excluded >= 0:
        scores[excluded] = -np.inf
    found = np.empty(len(relevant), dtype=np.int64)
    for number, passage in enumerate(relevant):
        score = scores[passage]
        found[number] = 1 + np.count_nonzero(scores > score)
        equal = np.flatnonzero(scores == score)
        found[number] += np.count_nonzero(order[equal] < order[passage])
    return found


def query_metrics(ranks: Ints, grades: Ints) -> NDArray[np.float64]:
    """Return the :data:`METRICS` of one query, 0 to 1.

    nDCG (Järvelin & Kekäläinen 2002) takes the grade itself as the gain, as trec_eval does. The reciprocal rank is that of
    the first relevant passage, however far down it is.

    Args:
        ranks: ``[R]`` ranks of the relevant passages, from 1.
        grades: ``[R]`` their grades, above 0.
    """
    gain = (grades / np.log2(ranks + 1))[ranks <= 10].sum()
    ideal = -np.sort(-grades)[:10]
    best = (ideal / np.log2(np.arange(len(ideal)) + 2)).sum()
    return np.array([gain / best, (ranks <= 10).mean(), (ranks <= 100).mean(), 1 / ranks.min()])
