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

import gristmill

warnings.filterwarnings("ignore")


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


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    build(target)
