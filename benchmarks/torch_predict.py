"""What `nabi predict` does, in PyTorch: ``python torch_predict.py WEIGHTS PICTURE`` says what is on a picture."""

import sys

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
picture = torch.from_numpy(np.asarray(Image.open(sys.argv[2]).convert("L").resize((8, 8)), np.float32))
with torch.inference_mode():
    scores = net(((picture / 255 - saved["mean"]) / saved["std"])[None, None])
    best = scores.softmax(1)[0].topk(3)
print(sys.argv[2], *(f"{place} {score:.3f}" for score, place in zip(*best, strict=True)), sep="  ")
