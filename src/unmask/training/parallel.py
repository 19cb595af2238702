"""How the processes of a run sum their gradients: by DDP, where each has the whole model, or by FSDP2, each with a share.

Both sum while the backward pass goes on. The loss is divided by the targets of the whole step already, so gradients are
added up and not averaged.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForMaskedLM

from unmask.config.settings import TrainSettings
from unmask.data.batches import Batch
from unmask.errors import ConfigError, UnmaskError
from unmask.machine import memory_bytes, processes
from unmask.model.cpu.embeddings import defer_embedding_grad
from unmask.model.layers import encoder_layers
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Loss, Objective, checked_losses, stand_in
from unmask.reporting.format import byte_size
from unmask.training.distributed import World

Kind = Literal["ddp", "fsdp"]

BYTES_PER_WEIGHT = 16
"""Of a weight that AdamW trains in fp32: itself, its gradient and two moments."""

_FULL = 0.6  # share of the memory that weights and their state may take under DDP; activations need the rest


def require_parallel(train: TrainSettings) -> None:
    """Refuse what the settings and the number of processes alone rule out, before anything is read.

    Raises:
        ConfigError: ``train.offload`` without FSDP.
    """
    if train.offload and train.parallel == "ddp":
        raise ConfigError(
            "--offload keeps shares of the model in the memory of the host, but with --parallel ddp there are none: each "
            "process has the whole model; leave out one of them"
        )
    if train.offload and processes() == 1:
        raise ConfigError(
            "--offload keeps shares of the model in the memory of the host, but a single process has the whole model; "
            "start several with torchrun, or leave it out"
        )


def choose_parallel(train: TrainSettings, model: MaskedLM, world: World) -> tuple[Kind, str]:
    """Choose FSDP where it is wanted or the model with its training state does not fit into the memory of a process, else DDP.

    Returns:
        The choice, and a sentence that says why.

    Raises:
        ConfigError: FSDP cannot do what the settings want.
    """
    if world.size == 1:
        return "ddp", ""
    weights = list(model.model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    frozen = sum(weight.numel() for weight in weights) - trained
    need, memory = BYTES_PER_WEIGHT * trained + 4 * frozen, -world.max(-_memory(model.device, world))
    kind: Kind = "ddp" if need <= _FULL * memory else "fsdp"
    if train.parallel != "auto":
        kind = train.parallel
    elif train.offload:
        kind = "fsdp"
    if kind == "fsdp":
        _require_shardable(train, model)
    size = f"{byte_size(need)} of weights and their state"
    if kind == "ddp":
        return kind, f"ddp (each has the whole model: {size}; {byte_size(memory)} of memory a process)"
    where = "memory"
    if train.offload:
        where, memory = "memory of the host", -world.max(-_memory(torch.device("cpu"), world))
    copies, shares = _shares(world)
    what = "each has a share of the model" + (", each host all of it" if copies > 1 else "")
    share = f"{byte_size(need / shares)} of {size}"
    return kind, f"fsdp ({what}: {share}; {byte_size(memory)} of {where} a process)"


def _require_shardable(train: TrainSettings, model: MaskedLM) -> None:
    """Refuse what FSDP cannot do here, before any text is prepared."""
    if train.new_embeddings_steps:
        raise ConfigError("--new-embeddings-steps needs the whole model in every process; use --parallel ddp")
    # Weights are gathered in the forward pass of a module, and what is no module to call has none.
    if names := [name for name, module in model.attached.items() if not _callable(module)]:
        raise ConfigError(
            f"the objective trains a module without a forward pass ({', '.join(names)}), which --parallel fsdp cannot share "
            f"out; use ddp"
        )
    if model.batching == "equal":
        raise ConfigError(
            f"{model.architecture} takes only sequences of one length together, which --parallel fsdp cannot; use ddp"
        )


def _callable(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _memory(device: torch.device, world: World) -> float:
    """Return the bytes of memory that this process has for itself."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return (memory_bytes() or math.inf) / world.here


def _shares(world: World) -> tuple[int, int]:
    """Return how many copies of the model there are under FSDP, and of how many shares: over several hosts one a host."""
    hosts = world.size // world.here
    return (hosts, world.here) if hosts > 1 < world.here else (1, world.size)


class GradientSum:
    """Sums the gradients of a model over the processes of a run; in a single process it does nothing.

    FSDP replaces the weights of the model, so make this before the optimizers.

    Args:
        model: in training mode.
        world: the processes.
        kind: how.
        offload: whether FSDP keeps weights, gradients and the state of optimizers in the memory of the host.
    """

    def __init__(
        self, model: MaskedLM, world: World | None = None, kind: Kind = "ddp", *, offload: bool = False
    ) -> None:
        self.model, self.world, self.kind = model, world or World(), kind
        self.alone = self.world.size == 1
        self.objective: Objective = MaskedLanguageModelling()
        self._wrapped: DistributedDataParallel | None = None
        self._wrapped_for: tuple[Objective, list[bool]] | None = None
        self._ignored: list[nn.Parameter] = []
        self._attached: dict[str, nn.Module] = {}  # copies, to be filled where a whole model is made
        self.offload = offload
        if self.sharded:
            self._shard()

    @property
    def sharded(self) -> bool:
        """Whether each process has a share of every weight only."""
        return self.kind == "fsdp" and not self.alone

    def begin(self, objective: Objective | None = None) -> None:
        """Get ready for a step, which may have another objective than the last, or train other weights."""
        if objective is not None:
            self.objective = objective
        if self.alone or self.sharded:
            return
        trained = self.objective, [weight.requires_grad for weight in self.model.model.parameters()]
        if trained != self._wrapped_for:
            self._replicate()
            self._wrapped_for = trained

    def losses(self, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        """Compute the losses of a micro-batch, in whose backward pass the gradients are summed."""
        if self._wrapped is None:
            return checked_losses(self.objective, self.model, batch, divisors)
        found: tuple[Loss, ...] = self._wrapped(batch, divisors)
        return found

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Sum gradients in the backward pass of the last micro-batch alone."""
        if self.alone:
            with defer_embedding_grad(self.model.model):
                yield
        elif self._wrapped is not None and not last:
            with self._wrapped.no_sync():
                yield
        else:
            if self.sharded:
                self._root.set_requires_gradient_sync(last)
            yield

    def check(self) -> None:
        """Make sure that no weight has a gradient that was not summed."""
        for weight in self._ignored:
            if weight.grad is not None:
                name = next(name for name, other in self.model.model.named_parameters() if other is weight)
                raise UnmaskError(
                    f"the weight {name} had no gradient in a trial and has one now, so it cannot be trained by several "
                    f"processes with ddp; use --parallel fsdp, or one process"
                )

    def whole_model(self) -> MaskedLM:
        """Return the model with whole weights: where each process has a share, a new one, in all of them.

        LoRA adapters are left out: before training they change nothing, and after it they are merged.
        """
        if not self.sharded:
            return self.model
        raw, device = self.model.model, self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            plain = AutoModelForMaskedLM.from_config(raw.config)
        weights = {name.replace(".base_layer.", "."): weight for name, weight in raw.state_dict().items()}
        with torch.no_grad():
            for name, weight in plain.state_dict().items():  # one at a time, so that none is in memory twice
                weight.copy_(whole(weights[name].to(device)))
            parts = dict(self.model.attached.items())
            for part, copy in self._attached.items():
                shares = parts[part].state_dict()
                for name, weight in copy.state_dict().items():
                    weight.copy_(whole(shares[name].to(device)))
        plain.config.name_or_path = raw.config.name_or_path
        found = MaskedLM(plain, self.model.tokenizer, autocast=self.model.autocast)
        found.verified = self.model.verified
        if self._attached:
            found.attach(**self._attached)
        return found

    def filler(self) -> Batch:
        """Return a batch for a process that has no target in a micro-batch: its loss must be multiplied by zero."""
        return stand_in(self.objective, self.model)

    def rehearsal(self, length: int, tokens: int) -> Batch:
        """Return a micro-batch of sequences of ``length``, of about so many ``tokens`` in all, a third of them masked."""
        return self.objective.trial(self.model.vocabulary, length, tokens, rate=1 / 3)

    @property
    def _root(self) -> FSDPModule:
        assert isinstance(self.model.model, FSDPModule)
        return self.model.model

    def _replicate(self) -> None:
        self._wrapped = None
        gc.collect()  # an earlier wrapper has hooks on the weights as long as it lives
        computation = _Computation(self.model, self.objective)
        unused = set(self._without_gradient())
        self._ignored = [weight for name, weight in self.model.model.named_parameters() if name in unused]
        ignored = [f"raw.{name}" for name in sorted(unused)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(computation, ignored)
        # Buffers are constants here, and the gradients are the buckets themselves, not copies.
        wrapped = DistributedDataParallel(
            computation, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        wrapped.register_comm_hook(None, _add_up)
        self._wrapped = wrapped

    def _without_gradient(self) -> list[str]:
        """Return the names of trained weights that have no part in the loss, such as those of a head that is not used."""
        model = self.model
        named = [(name, weight) for name, weight in model.model.named_parameters() if weight.requires_grad]
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            batch = self.filler()
            losses = self.objective.losses(
                model, batch, [max(1, count) for count in self.objective.counts(batch)]
            )
            total = self.objective.total([loss.value for loss in losses])
            found = torch.autograd.grad(total, [weight for _, weight in named], allow_unused=True)
        return [name for (name, _), gradient in zip(named, found, strict=True) if gradient is None]

    def _shard(self) -> None:
        raw, device = self.model.model, self.model.device
        self.model.computes_on = device  # where its weights are kept elsewhere
        copies, shares = _shares(self.world)
        shape, names = ((copies, shares), ("hosts", "here")) if copies > 1 else ((shares,), None)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        kept = CPUOffloadPolicy(pin_memory=device.type == "cuda") if self.offload else OffloadPolicy()
        half = torch.bfloat16 if self.model.autocast else None
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
        trained = [weight.requires_grad for weight in raw.parameters()]
        attached = dict(self.model.attached.items())
        self._attached = {name: deepcopy(module) for name, module in attached.items()}
        for module in [*encoder_layers(raw)[1], *attached.values(), raw]:
            shard = fully_shard(
                module, mesh=mesh, mp_policy=policy, reshard_after_forward=True, offload_policy=kept
            )
            shard.set_gradient_divide_factor(1.0)
            shard.set_force_sum_reduction_for_comms(True)
        for weight, requires_grad in zip(raw.parameters(), trained, strict=True):
            weight.requires_grad_(requires_grad)
        self.model.sharded = True


class _Computation(nn.Module):
    """The losses of a micro-batch as one module, in whose forward pass an objective may run the model as it likes."""

    def __init__(self, model: MaskedLM, objective: Objective) -> None:
        super().__init__()
        self.raw, self._model, self._objective = model.model, model, objective

    def forward(self, batch: Batch, divisors: Sequence[int]) -> tuple[Loss, ...]:
        return checked_losses(self._objective, self._model, batch, divisors)


# Without annotations, since torch compares them and does not take strings.
def _add_up(_, bucket):  # type: ignore[no-untyped-def]
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that FSDP has shared out as a whole; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def computing_device(weight: Tensor) -> torch.device:
    """Return the device that computes with a weight; it may be kept in the memory of the host."""
    return torch.device(weight.device_mesh.device_type) if isinstance(weight, DTensor) else weight.device
