"""timm: its optimizers and schedules, around a task that returns its loss and is replayed.

python examples/integrations/timm_task.py
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

import flatminima as fm


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet10t", num_classes=2, in_chans=1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.model(x), y)}


torch.manual_seed(0)
task = Task()
base = create_optimizer_v2(task.model, opt="adamw", lr=1e-3)
optimizer = fm.SharpnessAwareOptimizer(base, fm.sam(rho=0.05), replay=task)  # was: base
schedule = CosineLRScheduler(optimizer, t_initial=5)
y = torch.arange(8) % 2
x = torch.randn(8, 1, 32, 32) + y.reshape(8, 1, 1, 1)
for epoch in range(5):
    optimizer.zero_grad()
    loss = task(x, y)["loss"]
    loss.backward()
    optimizer.step()
    schedule.step(epoch + 1)
    print(f"epoch {epoch}, loss {loss:.3f}")
