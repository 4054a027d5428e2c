"""One process or many: who this one is, its memory, what all of them sum to, how a model is spread over them.

Reads the environment that `torchrun` sets; alone, all of it costs nothing. DDP keeps a copy of the model in each
process, FSDP2 (`fully_shard`) a share of it, at the price of gathering each block's weights when it is used.
"""

from __future__ import annotations

import ctypes
import os
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from stages.train.model import Model


class World:
    """This process's place: rank of size, and its device."""

    def __init__(self) -> None:
        """Joins the others where `torchrun` started this process; over NCCL on CUDA, else over gloo."""
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def spread(self, model: Model, how: Literal["ddp", "fsdp"]) -> torch.nn.Module:
        """The module to call forward on: the model itself, or it in DDP; with FSDP2 its weights become shares."""
        if self.size == 1:
            return model
        if how == "ddp":
            return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        from torch.distributed.fsdp import fully_shard

        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
        return model


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next one; elsewhere it does nothing.

    Else each step is given some 20,000 pages anew, 3 % of its CPU time at width 256 (benchmarks/train.py).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim, mmap, most, allowed = -1, -3, 1 << 30, 1 << 25  # older ones allow no more
        libc.mallopt(trim, most)
        _ = libc.mallopt(mmap, most) or libc.mallopt(mmap, allowed)


def whole(tensor: Tensor) -> Tensor:
    """A tensor or a share of one → all of it; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, on the device of `model` and cut as it is."""
    value = value.to(model.device)
    if isinstance(model, DTensor) and value.shape == model.shape:
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value
