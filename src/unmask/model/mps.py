"""Apple's ``mps``: a model is computed there if, in a trial, logits and gradients are those of the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import ConfigError
from unmask.machine import processes
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import on_device
from unmask.model.trial import UNABLE, close, reason_of
from unmask.model.verify import trial_documents
from unmask.progress import Progress

_MPS = torch.device("mps", 0)


def require_mps() -> None:
    """Make sure that there is an ``mps`` to try.

    Raises:
        ConfigError: there is none, or there are several processes.
    """
    if not torch.backends.mps.is_available():
        raise ConfigError("device mps was asked for, but torch finds none; use --device=cpu or auto")
    if processes() > 1:
        raise ConfigError("device mps was asked for, but it takes a single process; use --device=cpu or auto")


def use_mps(model: MaskedLM, wanted: str, progress: Progress = Progress()) -> None:
    """Move a model from the CPU to ``mps``, if in a trial it gives there what it gives on the CPU.

    Compared are the logits of documents of many lengths and the gradients of their loss, in fp32; and, where the model
    computes in bf16, whether it can do that there.

    Args:
        model: is left on the CPU where the trial fails.
        wanted: ``mps``, or ``auto`` for the CPU where the trial fails; with other devices nothing is done.
        progress: logs where the model is computed, and why.

    Raises:
        ConfigError: ``mps`` is wanted, and the trial failed.
    """
    if wanted not in ("auto", "mps") or model.device.type != "cpu" or not torch.backends.mps.is_available():
        return
    reason = "mps takes a single process" if processes() > 1 else _moved(model)
    if not reason:
        progress.log("computing on mps: in a trial, logits and gradients are those of the CPU")
    elif wanted == "mps":
        raise ConfigError(f"{reason}; use --device=cpu or auto")
    else:
        progress.log(f"computing on the CPU: {reason}")


def _moved(model: MaskedLM) -> str:
    """Move a model to ``mps``; or say why not, and leave it where it was."""
    autocast, reason = model.autocast, ""
    try:
        with model.in_fp32():
            wanted = _logits_and_gradient(model)
            model.model.to(_MPS)  # type: ignore[arg-type]
            found = _logits_and_gradient(model)
        reason = " and ".join(
            f"{what} are off by {_distance(one, other):.1g} of the largest"
            for what, one, other in zip(("logits", "gradients"), found, wanted, strict=True)
            if not close(one, other)
        )
        if reason:
            reason = f"on mps {model.architecture} does not give what it gives on the CPU ({reason})"
        if autocast and not reason:
            reason = model.use_bf16()
    except UNABLE as error:
        reason = f"mps cannot compute {model.architecture} ({reason_of(error)})"
    if reason:
        model.model.to("cpu")  # type: ignore[arg-type]
        model.autocast = autocast
    return reason


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _logits_and_gradient(model: MaskedLM) -> tuple[Tensor, Tensor]:
    """Return the logits of the documents, and the gradient of their mean loss as one vector; both on the CPU."""
    batch = trial_documents(model)
    weights = [weight for weight in model.model.parameters() if weight.requires_grad]
    with model.evaluating(), torch.enable_grad():
        logits = model.target_logits(batch).float()
        loss = F.cross_entropy(logits, on_device(batch.target_ids, model.device))
        found = torch.autograd.grad(loss, weights, allow_unused=True) if weights else ()
    parts = [part.detach().flatten().cpu() for part in found if part is not None]
    return logits.detach().cpu(), torch.cat(parts) if parts else torch.zeros(1)
