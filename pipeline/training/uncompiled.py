"""torch's compiler kept out of a rank, which compiles nothing.

In: nothing. Out: torch's AdamW without its ties to the compiler, and a frame in which DeepSpeed ties none. What always
holds: what is computed is what torch computes, to the last bit: left out are only the notes that tell a compiler to
keep off. Merely to leave them, torch loads the whole compiler, which took two fifths of a rank's start.

Example:
    with without_compiler():
        optimizer = AdamW(groups, fused=True)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, whose step tells no compiler that it is one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        # Under torch's own wrapper, which turns gradients off as the line above does.
        step: Any = torch.optim.AdamW.step
        getattr(step, "__wrapped__", step)(self, closure)


@contextmanager
def without_compiler() -> Iterator[None]:
    """A frame in which DeepSpeed is imported, and an optimizer and an engine are made, without the compiler."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain: Any = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None:
            # Where torch keeps, for good, what the compiler would have made of the method.
            plain.__dynamo_disable = plain
    # A release of torch that has one of them no more costs time and nothing else.
    found = [(torch.compiler, "disable"), (torch, "_disable_dynamo")]
    before = [(module, name, getattr(module, name)) for module, name in found if hasattr(module, name)]
    for module, name, _ in before:
        setattr(module, name, _as_it_is)
    try:
        yield
    finally:
        for module, name, kept in before:
            setattr(module, name, kept)


def _as_it_is(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """What both decorators come to where nothing is compiled."""
    return _as_it_is if function is None else function
