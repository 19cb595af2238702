"""The side of unmask in `conformance_peers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conformance_peers import FAMILIES, LENGTH, RATE, ROWS, SPLITS, STEPS, byte_tokenizer, same_share
from harness import Result


def ours(place: str) -> Result:
    """Compute every case with unmask."""
    from unmask.promises.checks import conformance

    checks = {check.name: check for check in conformance(str(Path(place, "bert")), offline=True)}
    model = _ready(place, "bert")
    source = _source(place, model.tokenizer, "bert")
    return {
        "accumulation": {family: _our_accumulation(place, family) for family in FAMILIES},
        "processes": 1.0 + checks["process loss"].measured,
        "again": checks["evaluation again"].measured,
        "batch": _our_batch(source, model),
        "no_targets": checks["no targets"].measured,
        "epochs": _our_epochs(source),
        "rows": _our_rows(source),
        "resume": _our_resume(place),
        "special": _our_special(source, model),
        "literal": checks["literal tokens"].measured,
        "neighbour": checks["neighbours"].measured,
        "whole": _our_whole(place),
    }


def _source(place: str, tokenizer: Any, name: str, **masking: Any) -> Any:
    """Return the text as a source of unmask."""
    import numpy as np

    from unmask.config.settings import DocumentSettings, MaskingSettings
    from unmask.data.batches import TextSource
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import vocabulary_of

    settings = DocumentSettings(documents="line")
    corpus = prepare([Path(place, "text.txt")], settings, tokenizer, Path(place, f"shards-{name}"))
    masking_settings = MaskingSettings.model_validate({"rate": RATE} | masking)
    return TextSource(corpus, np.arange(len(corpus)), vocabulary_of(tokenizer), masking_settings, LENGTH)


def _ready(place: str, family: str) -> Any:
    from unmask.model.load import load_for_inference

    return load_for_inference(str(Path(place, family)), device="cpu", offline=True)


def _our_accumulation(place: str, family: str) -> list[Result]:
    import numpy as np
    import torch

    from unmask.data.masking.random_bits import MaskKey
    from unmask.training.loss import step_gradients
    from unmask.training.parallel import GradientSum

    model = _ready(place, family)
    source = _source(place, model.tokenizer, family)
    numbers, found = source.by_length(np.arange(ROWS)), []
    for count, steps in SPLITS:
        parts = [numbers[first : first + count] for first in range(0, ROWS, count)]
        batches = [source.batch(part, MaskKey(0, 0), RATE) for part in parts]
        assert len(batches) == steps
        model.model.zero_grad()
        loss, _ = step_gradients(
            GradientSum(model), batches, [sum(len(batch.target_ids) for batch in batches)]
        )
        norm = torch.nn.utils.get_total_norm([w.grad for w in model.model.parameters() if w.grad is not None])
        found.append({"loss": float(loss), "gradient norm": float(norm)})
    return found


def _our_batch(source: Any, model: Any) -> float:
    from unmask.evaluation.heldout import evaluate_batches

    losses = [evaluate_batches(model, source.evaluation_batches(tokens)).loss for tokens in (1, 32 * LENGTH)]
    return abs(losses[0] - losses[1])


def _our_targets(source: Any, epoch: int, rows: int) -> list[Any]:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    found = []
    for part in np.array_split(np.arange(256), 256 // rows):
        batch = source.batch(part, MaskKey(0, epoch), RATE)
        ends = np.searchsorted(batch.target_index, batch.cu_seqlens)
        pairs = zip(ends[:-1], ends[1:], batch.cu_seqlens[:-1], strict=True)
        found += [tuple((batch.target_index[a:b] - begin).tolist()) for a, b, begin in pairs]
    return found


def _our_epochs(source: Any) -> float:
    """Rows without a target have equal masks by chance; only the others count."""
    pairs = zip(_our_targets(source, 0, 8), _our_targets(source, 1, 8), strict=True)
    return same_share(*zip(*(pair for pair in pairs if any(pair)), strict=True))


def _our_rows(source: Any) -> float:
    return 1.0 - same_share(_our_targets(source, 0, 8), _our_targets(source, 0, 7))


def _our_resume(place: str) -> float:
    import signal

    from safetensors.torch import load_file

    from unmask.config.load import load_config
    from unmask.errors import Interrupted
    from unmask.progress import Progress
    from unmask.run.train import train

    flags = {"data.inputs": [str(Path(place, "text.txt"))], "model.name": str(Path(place, "bert"))}
    flags |= {"train.max_steps": STEPS, "train.batch_tokens": 256, "train.optimizer.learning_rate": 1e-3}
    flags |= {"train.precision": "fp32", "train.device": "cpu", "model.offline": True}
    config = load_config(None, flags=flags)

    class Stop(Progress):
        def advance(self, share: float | None, figures: Any) -> None:
            if figures.get("step") == STEPS // 2 + 1:
                signal.raise_signal(signal.SIGTERM)

    whole, part = Path(place, "whole"), Path(place, "part")
    train(config, whole)
    try:
        train(config, part, progress=Stop())
    except Interrupted:
        train(config, part, resume="auto")
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (whole, part)]
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])


def _our_whole(place: str) -> float:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    source = _source(place, byte_tokenizer(place), "bytes", strategy="word")
    batches = [
        source.batch(np.array([number]), MaskKey(0, 0), RATE) for number in range(len(source.sequences))
    ]
    overhead = source.vocabulary.overhead
    hit = [len(batch.target_ids) == batch.tokens - overhead for batch in batches if len(batch.target_ids)]
    return sum(hit) / len(hit)


def _our_special(source: Any, model: Any) -> float:
    import numpy as np

    from unmask.data.masking.random_bits import MaskKey

    wrong = replaced = 0
    for epoch in range(40):
        batch = source.batch(np.arange(256), MaskKey(0, epoch), RATE)
        seen = batch.input_ids[batch.target_index]
        drawn = seen[(seen != batch.target_ids) & (seen != model.vocabulary.mask_id)]
        wrong += int(np.isin(drawn, model.tokenizer.all_special_ids).sum())
        replaced += len(drawn)
    return 1000 * wrong / replaced
