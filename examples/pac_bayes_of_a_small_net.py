"""What can be certified about a small network: its error on new data, with probability 0.965.

python examples/pac_bayes_of_a_small_net.py
"""

import math

import torch
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy

import flatminima as fm
from flatminima.sharpness import pac_bayes

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
x = (torch.tensor(digits.data, dtype=torch.float32) / 16)[order]
y = (torch.tensor(digits.target) >= 5).long()[order]  # small digit or large one
seen, new = (x[:1400], y[:1400]), (x[1400:], y[1400:])

model = Sequential(Linear(64, 8), ReLU(), Linear(8, 2))
prior = fm.Vector([param.detach().clone() for param in model.parameters()])


def loss_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(x), y) / math.log(2)  # a mistake costs 1 at least


def doubt_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 1.0 - model(x).softmax(1).gather(1, y[:, None]).mean()  # in [0, 1], with a slope


def error_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x).argmax(1) != y).float().mean()


optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    loss_fn(*seen).backward()
    optimizer.step()

loss, w = fm.Objective.of_model(model, loss_fn, [seen])
error, _ = fm.Objective.of_model(model, error_fn, [seen])
doubt, _ = fm.Objective.of_model(model, doubt_fn, [seen])
worst = fm.sharpness.worst_case(doubt, w, rho=0.05)
height, k = worst.loss + worst.value, sum(param.numel() for param in model.parameters())
print(
    "bound of SAM:",
    pac_bayes.sam_bound(worst_loss=height, norm=float(w.norm()), k=k, n=1400, rho=0.05),
)

posterior = pac_bayes.train_posterior(loss, w, prior, steps=1500)
print("certificate: ", pac_bayes.certificate(error, posterior, draws=1000))
generator = torch.Generator().manual_seed(2)
errors = [float(error.on([new]).value(posterior.draw(generator))) for _ in range(100)]
print(f"on new data:  {sum(errors) / 100:.4f}, the mean error of 100 draws")
