"""Accelerate: it owns the backward pass, so hand that over.

python examples/integrations/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import flatminima as fm

torch.manual_seed(0)
x = torch.randn(256, 2)
loader = DataLoader(TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long()), batch_size=32)
net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

accelerator = Accelerator(cpu=True)
base = torch.optim.AdamW(net.parameters(), lr=0.02)
model, optimizer, loader = accelerator.prepare(net, base, loader)
sharp = fm.SharpnessAware(model, fm.sam(rho=0.05))


def loss_fn(x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


loss = torch.tensor(0.0)
for _ in range(20):
    for x, y in loader:
        optimizer.zero_grad()
        # was: loss = loss_fn(x, y); accelerator.backward(loss)
        loss = sharp.backward(loss_fn, x, y, backward_fn=accelerator.backward)
        optimizer.step()
print(f"loss {loss:.3f}")
