"""Models that harm the worker that runs them, each on one kind of input only; every other they answer.

The harm is real, not acted: a signal of the processor, a refusal of the allocator, a loop without end. All take one
INT64 a row and give it back (`killer` its negative). The worker warms models up with zeros, which harm nowhere.
"""

from __future__ import annotations

import torch
from torch import nn


class Killer(nn.Module):
    """Kills its process with SIGFPE on -2**63, which has no negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, -1, rounding_mode="trunc")


class Hungry(nn.Module):
    """Asks for as many bytes a row as the largest value among the rows. 2**48 is more than processes have addresses,
    so it is refused on every machine, however much memory that has and however it is overcommitted.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        buffer = torch.empty([x.size(0), max(1, int(x.max()))], dtype=torch.uint8, device=x.device)
        # The buffer has to matter, or the compiler leaves it out.
        return x + 0 * buffer[:, :1]


class Together(nn.Module):
    """Needs memory by the sum of its batch: a sum of up to 4 fits everywhere (1 MiB), a larger one nowhere (2**48
    bytes). Nothing lies between, so that no machine's size matters. Rows of 1 fit in batches of 4, a row of 5 never.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = max(0, 28 * min(5, int(x.sum())) - 92)
        buffer = torch.empty([1 << bits], dtype=torch.uint8, device=x.device)
        return x + 0 * buffer[:1]


class Hang(nn.Module):
    """Loops for ever on a negative value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        while bool((y < 0).any()):
            y = torch.clamp(y, max=-1)
        return y


class Sluggish(nn.Module):
    """Multiplies as often as the largest value says: a test measures first, and then makes one forward as long as it
    needs on the machine it runs on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.weight
        for _ in range(int(x.max())):
            y = y @ self.weight
        return x * y[0, 0].to(torch.int64)


#: Name in the packages directory, module, rows of its largest batch.
FAULTS: list[tuple[str, nn.Module, int]] = [
    ("killer", Killer(), 64),
    ("hungry", Hungry(), 64),
    ("together", Together(), 64),
    ("hang", Hang(), 64),
    ("sluggish", Sluggish(), 8),
]
