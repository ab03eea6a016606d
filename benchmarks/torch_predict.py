"""What `nabi predict` does, in PyTorch: ``python torch_predict.py WEIGHTS FOLDER`` says what is on its pictures."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

CHANNELS = (8, 16)

saved = torch.load(sys.argv[1], weights_only=True)
layers: list[nn.Module] = []
depth = 1
for outputs in CHANNELS:
    convolution = nn.Conv2d(depth, outputs, 3, padding=1, bias=False)
    layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    depth = outputs
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(depth, 10))
net.load_state_dict(saved["net"])
net.eval()
paths = sorted(Path(sys.argv[2]).iterdir())
pictures = np.stack([np.asarray(Image.open(path).convert("L").resize((8, 8)), np.float32) for path in paths])
with torch.inference_mode():
    scores = net(((torch.from_numpy(pictures) / 255 - saved["mean"]) / saved["std"])[:, None])
    best = scores.softmax(1).topk(3)
for path, values, places in zip(paths, *best, strict=True):
    print(path, *(f"{place} {score:.3f}" for score, place in zip(values, places, strict=True)), sep="  ")
