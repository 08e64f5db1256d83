"""Where this rank's part of each tensor lies in the flat tensors that ZeRO hands the optimizer.

In: a network under DeepSpeed at ZeRO stage 1, 2 or 3. Out: for each flat tensor, its fragments: which tensor of the
network each belongs to, where it starts, how many elements it has. What always holds: each element of the network is
in exactly one fragment of one rank; what ZeRO adds to fill up a partition is in none (at stage 3 it is memory that
nobody has written to); a tensor's number is the same on all ranks.

Element by element, an optimizer needs none of this. One that looks at whole tensors (`lamb`) does: a flat tensor is
cut where the ranks' shares end, not where tensors do.

Example:
    fragments_of(network, zero, stage=1)  # {flat: [Fragment(tensor=0, start=0, length=4096), …], …}
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Fragment(NamedTuple):
    """A run of elements of a flat tensor that belong to one tensor.

    tensor: its number among the network's parameters
    start, length: elements, in the flat tensor
    """

    tensor: int
    start: int
    length: int


def fragments_of(network: "torch.nn.Module", zero: Any, stage: int) -> dict["torch.Tensor", list[Fragment]]:
    """The fragments of each flat tensor that this rank's optimizer updates.

    zero: DeepSpeed's optimizer around ours
    """
    found: dict[torch.Tensor, list[Fragment]] = {}
    for number, parameter in enumerate(network.parameters()):
        flat, start, length = _weights_cut(parameter, zero) if stage == 3 else _state_cut(parameter, zero)
        if length:
            found.setdefault(flat, []).append(Fragment(number, start, length))
    return found


def _state_cut(parameter: Any, zero: Any) -> tuple[Any, int, int]:
    """Stages 1 and 2: a group's tensors end to end, cut into as many equal parts as there are ranks."""
    mapping = parameter._hp_mapping
    if mapping is None:  # all of it is on other ranks
        return None, 0, 0
    flat = zero.optimizer.param_groups[mapping.param_group_index]["params"][0]
    address = mapping.get_hp_fragment_address()
    return flat, address.start, address.numel


def _weights_cut(parameter: Any, zero: Any) -> tuple[Any, int, int]:
    """Stage 3: each tensor cut into equal parts, the last filled up; a rank's parts end to end."""
    group, start, size = zero.grad_position[zero.get_param_id(parameter)]
    before = size * zero._get_param_partition_rank(parameter)
    return zero.fp32_partitioned_groups_flat[group], start, min(size, max(0, parameter.ds_numel - before))
