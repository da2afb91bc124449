"""How sharp is a trained network? Its largest Hessian eigenvalues, with residuals.

python examples/sharpness_of_a_checkpoint.py
"""

import torch
from sklearn.datasets import load_digits
from torch.nn import Linear, Sequential, Tanh
from torch.nn.functional import cross_entropy

import flatminima as fm

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)

for name, rule in (("plain", None), ("SAM", fm.sam(rho=0.2))):
    torch.manual_seed(0)
    model = Sequential(Linear(64, 32), Tanh(), Linear(32, 10))

    def loss_fn(x: torch.Tensor, y: torch.Tensor, model: Sequential = model) -> torch.Tensor:
        return cross_entropy(model(x), y)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sharp = fm.SharpnessAware(model, rule) if rule else None
    for _ in range(200):
        optimizer.zero_grad()
        if sharp:
            sharp.backward(loss_fn, x, y)
        else:
            loss_fn(x, y).backward()
        optimizer.step()

    objective, w = fm.Objective.of_model(
        model, loss_fn, [(x[:1000], y[:1000]), (x[1000:], y[1000:])]
    )
    top = fm.sharpness.top_eigenpairs(fm.sharpness.Hessian(objective, w), k=3)
    values = ", ".join(
        f"{value:.3f} +- {residual:.0e}"
        for value, residual in zip(top.values, top.residuals, strict=True)
    )
    print(f"{name:>5}: loss {objective.value(w):.4f}, largest eigenvalues {values}")
