"""Lightning: return a SharpnessAwareOptimizer from configure_optimizers.

    python examples/integrations/lightning_trainer.py

`replayed` is for accumulation; without it, SharpnessAwareOptimizer(base, rule) will do.
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import flatminima as fm
from flatminima.integrations.lightning import replayed


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        base = torch.optim.AdamW(self.parameters(), lr=0.02)
        return replayed(self, base, fm.sam(rho=0.05))  # was: return base


torch.manual_seed(0)
x = torch.randn(256, 2)
loader = DataLoader(TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long()), batch_size=16)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", accumulate_grad_batches=2, **quiet)
trainer.fit(Module(), loader)
print(f"loss {trainer.callback_metrics['loss']:.3f}")
