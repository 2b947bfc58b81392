"""Weights, gradients and moments in parts, one on every process: torch's FSDP2 (`fully_shard`).

For captioners whose training one GPU does not hold. Whole weights are there before and after: every
process reads them all (to encode photos), and process 0 gets them all back to write them. Between,
a layer is put together when it computes, on all processes at once, so that all have to take the
same number of forward passes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from caption import InputError


def shard(network: nn.Module, device: torch.device) -> None:
    """Keep of every weight the part of this process; each layer is put together by itself.

    Raises InputError: nothing says which layers there are.
    """
    from accelerate import PartialState  # type: ignore[import-untyped]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {
        name
        for module in network.modules()
        for name in getattr(module, "_no_split_modules", ()) or ()
    }
    held = Counter(id(p) for m in network.modules() for p in m._parameters.values())
    layers = [
        m
        for m in network.modules()
        if type(m).__name__ in names and all(held[id(p)] == 1 for p in m.parameters())
    ]  # tied weights have to be in one group, so they stay with the network's
    if not layers:
        raise InputError(
            "train.fsdp: this checkpoint's class names no layers (_no_split_modules), so it cannot "
            "be kept in parts: train without fsdp; train.adapt.method=lora needs less memory"
        )
    state = PartialState(cpu=device.type == "cpu")
    mesh = init_device_mesh(device.type, (state.num_processes,))
    for layer in reversed(layers):  # those within others first
        fully_shard(layer, mesh=mesh)
    # Said of the network too, which would stay whole after an evaluation: its weights would then be
    # others than the optimizer's.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    network._is_accelerate_prepared = True  # type: ignore[assignment]  # else it becomes DDP


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor; of a part, on all processes at once."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What of a whole tensor this process keeps, where `like` is in parts."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole moments by the names of their weights, on process 0; the others get nothing. Before
    the first step there are none."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
    )

    if not optimizer.state:  # asking would make an empty step, which Adam counts
        return {}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(network, optimizer, options=options))


def load_optimizer_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Take up what `optimizer_state` gave, on all processes alike."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_optimizer_state_dict,
    )

    if not state:
        return
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(network, optimizer, state, options=options)


@contextlib.contextmanager
def outside_layers(network: nn.Module) -> Iterator[None]:
    """Inside, parts of the network may be called: what no layer holds is whole."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(network, FSDPModule):
        yield
        return
    network.unshard()
    try:
        yield
    finally:
        network.reshard()


def restore(network: nn.Module, *, keep: bool) -> None:
    """Make the network what it was before `shard`, its weights now in the processor's memory.

    keep: False leaves its weights without values (the other processes, which write nothing).
    """
    from torch.distributed.fsdp import FSDPModule

    parts = [m for m in network.modules() if isinstance(m, FSDPModule)]
    for module in parts:
        module.reshard()
        state = module._get_fsdp_state()
        state._pre_forward_hook_handle.remove()
        state._post_forward_hook_handle.remove()
        module.__class__ = type(module).__bases__[1]
    plain: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for holder in network.modules():
        for name, weight in list(holder._parameters.items()):
            if weight is None:
                continue
            if id(weight) not in plain:
                values = whole(weight.detach())
                kept = values.cpu() if keep else torch.empty_like(values, device="meta")
                plain[id(weight)] = nn.Parameter(kept, requires_grad=weight.requires_grad)
            holder._parameters[name] = plain[id(weight)]
        if parts and keep:
            for name, buffer in list(holder._buffers.items()):
                holder._buffers[name] = None if buffer is None else buffer.cpu()
