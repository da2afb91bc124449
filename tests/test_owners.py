"""DeepSpeed and pipelines are refused, whatever of them is handed over.

They are not installed here: classes with their real names, in modules with their real names, stand
in for them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import batches, loss_of, restored, smooth
from torch import nn

import flatminima as fm

MODELS = [
    ("deepspeed.runtime.engine", "DeepSpeedEngine", "DeepSpeed"),
    ("deepspeed.runtime.pipe.engine", "PipelineEngine", "DeepSpeed"),
    ("deepspeed.runtime.pipe.module", "PipelineModule", "DeepSpeed"),
    ("torch.distributed.pipelining._IR", "Pipe", "a pipeline"),
]
OPTIMIZERS = [
    ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer"),
    ("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3"),
    ("deepspeed.runtime.bf16_optimizer", "BF16_Optimizer"),
    ("accelerate.utils.deepspeed", "DeepSpeedOptimizerWrapper"),
]


def named(module: str, name: str, base: type) -> Any:
    return type(name, (base,), {"__module__": module})


def refusal(name: str, kind: str, owner: str = "DeepSpeed") -> str:
    return f"{name} must leave each pass to the loop, got {kind} of {owner}"


@pytest.mark.parametrize(("module", "name", "owner"), MODELS, ids=[name for _, name, _ in MODELS])
def test_a_model_that_owns_its_passes_is_refused(module: str, name: str, owner: str) -> None:
    model = named(module, name, nn.Sequential)(nn.Linear(4, 3))
    for whole in (model, nn.Sequential(model)):
        with pytest.raises(TypeError, match=refusal("model", name, owner)):
            fm.SharpnessAware(whole, fm.sam())
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=refusal("replay", name, owner)):
        fm.SharpnessAwareOptimizer(base, fm.sam(), replay=model)


@pytest.mark.parametrize(("module", "name"), OPTIMIZERS, ids=[name for _, name in OPTIMIZERS])
def test_an_optimizer_that_owns_the_backward_pass_is_refused(module: str, name: str) -> None:
    base = named(module, name, torch.optim.SGD)(smooth().parameters(), lr=0.1)
    with pytest.raises(TypeError, match=refusal("base", name)):
        fm.SharpnessAwareOptimizer(base, fm.sam())


def test_parameters_that_zero_has_cut_are_refused() -> None:
    model = smooth()
    next(model.parameters()).ds_id = 0  # pyright: ignore
    with pytest.raises(TypeError, match="parameters must leave each pass to the loop, got Param"):
        fm.SharpnessAware(model.parameters(), fm.sam())


def test_the_backward_of_an_accelerator_with_deepspeed_is_refused() -> None:
    """It makes the step as well."""

    class Accelerator:
        deepspeed_engine_wrapped: Any = SimpleNamespace()

        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

    model, (batch,) = smooth(), batches(1)
    sharp, accelerator = fm.SharpnessAware(model, fm.sam()), Accelerator()
    with (
        restored(model.parameters(), and_gradients=True),
        pytest.raises(TypeError, match=refusal("backward_fn", "method")),
    ):
        sharp.backward(loss_of(model), *batch, backward_fn=accelerator.backward)
    accelerator.deepspeed_engine_wrapped = None  # as without DeepSpeed
    sharp.backward(loss_of(model), *batch, backward_fn=accelerator.backward)


def test_the_schedule_of_a_pipeline_is_no_loss() -> None:
    schedule = named("torch.distributed.pipelining.schedules", "Schedule1F1B", object)
    schedule.step = lambda self, *batch: batch[0].sum()
    model, (batch,) = smooth(), batches(1)
    with pytest.raises(TypeError, match=refusal("loss_fn", "method", "a pipeline")):
        fm.SharpnessAware(model, fm.sam()).backward(schedule().step, *batch)


def test_the_real_stage_of_a_pipeline_has_the_name_that_is_refused() -> None:
    pipelining = pytest.importorskip("torch.distributed.pipelining")
    for kind in (pipelining.Pipe, pipelining.PipelineStage, pipelining.Schedule1F1B):
        assert f"{kind.__module__}.".startswith("torch.distributed.pipelining.")


def test_an_optimizer_of_deepspeeds_kernels_is_an_ordinary_one() -> None:
    kind = named("deepspeed.ops.adam.fused_adam", "FusedAdam", torch.optim.SGD)
    fm.SharpnessAwareOptimizer(kind(smooth().parameters(), lr=0.1), fm.sam())
