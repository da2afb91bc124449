"""skorch: make the optimizer a SharpnessAwareOptimizer; skorch hands it a closure.

python examples/integrations/skorch_net.py
"""

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

import flatminima as fm


def optimizer(params: list[dict], **settings: float) -> torch.optim.Optimizer:
    return fm.SharpnessAwareOptimizer(torch.optim.AdamW(params, **settings), fm.sam(rho=0.05))


torch.manual_seed(0)
x = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

learner = NeuralNetClassifier(
    net,
    criterion=nn.CrossEntropyLoss,
    optimizer=optimizer,  # was: torch.optim.AdamW
    lr=0.02,
    batch_size=32,
    max_epochs=20,
    train_split=None,
    verbose=0,
)
learner.fit(x, y)
print(f"accuracy {learner.score(x, y):.3f}")
