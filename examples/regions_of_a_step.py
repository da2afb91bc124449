"""What the slope does uphill: the share of the coordinates in each region through training.

python examples/regions_of_a_step.py
"""

import torch
from torch.nn import Linear, Sequential, Tanh

import flatminima as fm

torch.manual_seed(0)
x = torch.randn(256, 10)
y = (x[:, :1] * x[:, 1:2]).sign()
model = Sequential(Linear(10, 64), Tanh(), Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
shares = fm.observe.RegionShares(every=50)
sharp = fm.SharpnessAware(model, fm.sam(rho=0.1), observe=[shares])

for _ in range(301):
    optimizer.zero_grad()
    sharp.backward(lambda x, y: (model(x) - y).square().mean(), x, y)
    optimizer.step()

names = ("steeper", "gentler", "reversed_steeper", "reversed_gentler")
print("step  " + "  ".join(f"{name:>16}" for name in names))
for row in shares.rows:
    print(f"{row['step']:4d}  " + "  ".join(f"{row[name]:16.3f}" for name in names))
