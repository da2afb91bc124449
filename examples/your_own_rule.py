"""A rule of your own in three lines: look uphill, then once more, and descend along the mean.

python examples/your_own_rule.py
"""

import torch

import flatminima as fm
from flatminima import perturb


def mean_of_two(look: fm.Look) -> fm.Talk:
    g = yield fm.HERE
    p = yield perturb.normalized(look.w, g, look.rho)
    q = yield perturb.normalized(look.w, p, look.rho)
    return 0.5 * (p + q)


torch.manual_seed(0)
model = torch.nn.Linear(20, 1)
x, y = torch.randn(200, 20), torch.randn(200, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sharp = fm.SharpnessAware(model, fm.Conversation(mean_of_two, rho=0.1))
for step in range(51):
    optimizer.zero_grad()
    loss = sharp.backward(lambda x, y: (model(x) - y).square().mean(), x, y)
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step:2d}  loss {loss:.4f}")
print(sharp)
