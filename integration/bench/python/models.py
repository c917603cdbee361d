"""Writes the model packages of the bench: `models.py DIRECTORY`.

Weights are random, from a fixed seed: only speed is measured.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import gristmill

warnings.filterwarnings("ignore")

VOCABULARY = 30_000


class Attention(nn.Module):
    """One layer of a transformer encoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.project(self.before(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.feed(self.between(x))


class Encoder(nn.Module):
    """Token ids to one vector for each sequence: 6 layers, width 384, 12 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 384)
        self.layers = nn.ModuleList([Attention(384, 12) for _ in range(6)])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        weight = mask[:, :, None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1)


class Cnn(nn.Module):
    """Bytes of a picture to 10 scores."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 64]
        layers: list[nn.Module] = []
        for wide, wider in itertools.pairwise(widths):
            layers += [nn.Conv2d(wide, wider, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image.to(torch.float32) / 255)


def build(directory: Path) -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    gristmill.export(mlp, {"x": torch.randn(2, 64)}, directory, name="mlp", output_names=["y"], max_rows=256)
    image = {"image": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)}
    gristmill.export(Cnn(), image, directory, name="image", output_names=["y"], max_rows=16)
    gristmill.export(
        Encoder(),
        {"ids": torch.ones(2, 8, dtype=torch.int64), "mask": torch.ones(2, 8, dtype=torch.bool)},
        directory,
        name="encoder",
        output_names=["y"],
        dynamic={"ids": [1], "mask": [1]},
        ranges={"ids": (0, VOCABULARY - 1)},
        masks=["mask"],
        max_rows=32,
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    build(target)
