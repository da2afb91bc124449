"""Train a small network on handwritten digits with SAM: the one line that changes is marked.

python examples/sam_in_ten_lines.py
"""

import torch
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy

import flatminima as fm

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def loss_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(x), y)


sharp = fm.SharpnessAware(model, fm.sam(rho=0.1))
for _ in range(10):
    for index in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        loss = sharp.backward(loss_fn, x[index], y[index])  # was: loss_fn(x, y).backward()
        optimizer.step()

accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean()
print(f"accuracy on 297 digits that were not trained on: {accuracy:.3f}")
