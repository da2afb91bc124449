"""Each framework, driven for real, against the plain loop with `SharpnessAware.backward`."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import batches, same_bits, smooth, weights
from torch import Tensor, nn

import flatminima as fm

RULE = fm.sam(0.3)
EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "integrations").glob("*.py"))

# The frameworks warn about loaders, loggers and each other; our own part must not.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*lr_scheduler.step.*"),
]


@pytest.fixture(autouse=True)
def single_precision(double_precision: None) -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield


def needs(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        if "FLATMINIMA_EVERY_FRAMEWORK" in os.environ:  # `make test-integrations` installed it
            pytest.fail(f"{name} must be installed here, and is not")
        pytest.skip(f"needs {name}, which is not installed: pip install {name}")
    return pytest.importorskip(name)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def data(count: int = 8) -> list[Any]:
    return batches(count, dtype=torch.float32)


def normed() -> nn.Sequential:
    """With batch statistics, without dropout: the frameworks draw random numbers of their own."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


class Task(nn.Module):
    """Returns its loss, as Hugging Face's models do."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or normed()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


def plain(task: Task, together: int = 1, max_norm: float | None = None) -> Task:
    """The plain loop; `together` calls of the loss to a step."""
    torch.manual_seed(3)
    optimizer, sharp = sgd(task), fm.SharpnessAware(task, RULE)
    rows = data()

    def loss_fn(*rows: Any) -> Tensor:
        return sum(task(*row)["loss"] / together for row in rows)  # pyright: ignore

    for start in range(0, len(rows), together):
        optimizer.zero_grad()
        sharp.backward(loss_fn, *rows[start : start + together])
        if max_norm is not None:
            nn.utils.clip_grad_norm_(task.parameters(), max_norm)
        optimizer.step()
    return task


def assert_close(one: nn.Module, two: nn.Module) -> None:
    """Equal up to the order in which an accumulated gradient is summed."""
    for ours, expected in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def lightning_module(door: str, task: Task | None = None) -> Any:
    lightning = needs("lightning").pytorch
    from flatminima.integrations.lightning import replayed

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.task = task or Task()
            self.logged = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.task(*batch)["loss"]
            self.log("loss", loss)
            return loss

        def log(self, *args: Any, **kwargs: Any) -> None:
            self.logged += 1
            super().log(*args, **kwargs)

        def configure_optimizers(self) -> Any:
            if door == "closure":
                optimizer: Any = fm.SharpnessAwareOptimizer(sgd(self), RULE)
            else:
                optimizer = replayed(self, sgd(self), RULE)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Module()


def fit(module: Any, folder: Path, **keywords: Any) -> None:
    trainer = needs("lightning").pytorch.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **keywords,
    )
    torch.manual_seed(3)
    trainer.fit(module, torch.utils.data.DataLoader(data(), batch_size=None))


@pytest.mark.parametrize("door", ["closure", "replay"])
def test_lightning_is_the_plain_loop(door: str, tmp_path: Path) -> None:
    module = lightning_module(door)
    fit(module, tmp_path)
    expected = plain(Task())
    assert same_bits(weights(module), weights(expected))
    assert same_bits(list(module.buffers()), list(expected.buffers()))
    if door == "replay":
        assert module.logged == 8


def test_lightning_accumulates_with_one_displacement(tmp_path: Path) -> None:
    """Elsewhere it is silently wrong: ten training steps where sixteen are needed."""
    module = lightning_module("replay", Task(smooth()))
    fit(module, tmp_path, accumulate_grad_batches=4)
    assert_close(module, plain(Task(smooth()), together=4))
    assert module.logged == 8


def test_lightning_is_refused_where_its_closures_accumulate(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="closure must set the gradients to zero first"):
        fit(lightning_module("closure"), tmp_path, accumulate_grad_batches=4)


def test_lightning_in_bfloat16_replays_under_autocast(tmp_path: Path) -> None:
    module = lightning_module("replay", Task(smooth()))
    fit(module, tmp_path, precision="bf16-mixed")
    task = Task(smooth())
    optimizer, sharp = sgd(task), fm.SharpnessAware(task, RULE)

    def loss_fn(*batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return task(*batch)["loss"]

    for batch in data():
        optimizer.zero_grad()
        sharp.backward(loss_fn, *batch)
        optimizer.step()
    assert same_bits(weights(module), weights(task))


def test_lightning_clipping_is_refused_where_it_would_miss_the_direction(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gradients must reach step as backward left them"):
        fit(lightning_module("replay"), tmp_path, gradient_clip_val=0.1)


def test_a_module_without_a_training_step_is_refused() -> None:
    from flatminima.integrations.lightning import replayed

    with pytest.raises(TypeError, match="module must have a training_step, got Linear"):
        replayed(nn.Linear(1, 1), sgd(nn.Linear(1, 1)), RULE)


def hugging_face(task: Task, folder: Path, **settings: Any) -> None:
    transformers = needs("transformers")
    needs("accelerate")
    optimizer = fm.SharpnessAwareOptimizer(sgd(task), RULE, replay=task, **settings.pop("own", {}))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        max_grad_norm=settings.pop("max_grad_norm", 0.0),
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
        **settings,
    )
    trainer = transformers.Trainer(
        model=task,
        args=arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in data()],
        data_collator=lambda rows: rows[0],
        optimizers=(optimizer, scheduler),
    )
    torch.manual_seed(3)
    trainer.train()


@pytest.mark.parametrize("together", [1, 4])
def test_the_hugging_face_trainer_is_the_plain_loop(together: int, tmp_path: Path) -> None:
    task = Task(smooth())
    hugging_face(task, tmp_path, gradient_accumulation_steps=together)
    expected = plain(Task(smooth()), together=together)
    assert_close(task, expected)
    if together == 1:
        assert same_bits(weights(task), weights(expected))


def test_the_hugging_face_trainer_clips_by_max_norm(tmp_path: Path) -> None:
    task = Task(smooth())
    hugging_face(task, tmp_path, own={"max_norm": 0.2})
    assert same_bits(weights(task), weights(plain(Task(smooth()), max_norm=0.2)))
    with pytest.raises(RuntimeError, match="gradients must reach step as backward left them"):
        hugging_face(Task(smooth()), tmp_path, max_grad_norm=0.1)


def test_hugging_faces_label_smoothing_is_refused(tmp_path: Path) -> None:
    """Its loss is computed outside the model, where no replay can repeat it."""

    class Bare(Task):
        config = SimpleNamespace(model_type="bare", to_dict=dict, to_json_string=lambda: "{}")

        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    with pytest.raises(RuntimeError, match="replay must have returned a loss that was backprop"):
        hugging_face(Bare(smooth()), tmp_path, label_smoothing_factor=0.1)


def test_accelerate_owns_the_backward_pass() -> None:
    accelerate = needs("accelerate")
    accelerator, task = accelerate.Accelerator(cpu=True), Task()
    model, optimizer = accelerator.prepare(task, sgd(task))
    sharp = fm.SharpnessAware(model, RULE)
    torch.manual_seed(3)
    for batch in data():
        optimizer.zero_grad()
        sharp.backward(
            lambda *batch: model(*batch)["loss"], *batch, backward_fn=accelerator.backward
        )
        optimizer.step()
    assert same_bits(weights(task), weights(plain(Task())))


@pytest.mark.parametrize("together", [1, 4])
def test_accelerate_replays(together: int) -> None:
    """Elsewhere `accumulate(4)` never runs six of eight micro-batches."""
    accelerate = needs("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=together)
    task = Task(smooth())
    sharp = fm.SharpnessAwareOptimizer(sgd(task), RULE, replay=task)
    model, optimizer = accelerator.prepare(task, sharp)
    for batch in data():
        with accelerator.accumulate(model):
            loss = model(*batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    assert_close(task, plain(Task(smooth()), together=together))


def test_skorch_is_the_plain_loop() -> None:
    skorch = needs("skorch")
    net, rows = smooth(), data()
    x, y = (torch.cat(parts) for parts in zip(*rows, strict=True))

    def make(groups: Any, **keywords: Any) -> Any:
        return fm.SharpnessAwareOptimizer(torch.optim.SGD(groups, momentum=0.9, **keywords), RULE)

    learner = skorch.NeuralNet(
        net,
        criterion=nn.CrossEntropyLoss,
        optimizer=make,
        lr=0.1,
        batch_size=6,
        max_epochs=1,
        train_split=None,
        verbose=0,
    )
    learner.fit(x, y)
    assert same_bits(weights(learner.module_), weights(plain(Task(smooth()))))


def test_timm_makes_the_base_optimizer_and_replays_its_task() -> None:
    timm = needs("timm")
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    task = Task(smooth())
    base = create_optimizer_v2(task, opt="momentum", lr=0.1, momentum=0.9, weight_decay=0.0)
    optimizer = fm.SharpnessAwareOptimizer(base, RULE, replay=task)
    schedule = CosineLRScheduler(optimizer, t_initial=10)
    average = timm.utils.ModelEmaV2(task)
    for batch in data():
        loss = task(*batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(task)
    assert same_bits(weights(task), weights(plain(Task(smooth()))))
    schedule.step(5)
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)
    before = copy.deepcopy(average.module.state_dict())
    assert before.keys() == task.state_dict().keys()


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import runpy

    for name in ("lightning", "transformers", "accelerate", "skorch", "timm"):
        if script.stem.startswith(name):
            needs(name)
    monkeypatch.chdir(tmp_path)
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
