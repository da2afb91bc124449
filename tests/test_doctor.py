"""`doctor`: it finds what is wrong, and leaves no trace."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from nets import batches, loss_of, noisy, restored, same_bits, smooth
from torch import nn

import flatminima as fm


def examined(model: nn.Module, sharp: Any, dtype: Any = None) -> Any:
    return fm.doctor(model, sharp, loss_of(model), batches(1, dtype=dtype)[0])


def test_a_healthy_step() -> None:
    model = noisy()
    findings = examined(model, fm.SharpnessAware(model, fm.sam(0.3)))
    assert findings.doubts == ()
    assert findings.moved == 1.0 and findings.gradients == 2
    assert findings.cosine == pytest.approx(1.0, abs=1e-12)
    assert findings.length == pytest.approx(1.0, abs=1e-12)
    norms = [row.wanted for row in findings.parameters]
    assert sum(norm**2 for norm in norms) == pytest.approx(0.3**2, rel=1e-6)
    assert [row.name for row in findings.parameters] == [n for n, _ in model.named_parameters()]
    assert findings.weights_return and findings.buffers_once and findings.random_state_once
    names = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert findings.buffers_moved == names
    assert findings.draws_noise and findings.same_noise
    assert findings.m is None and findings.batch == 6
    assert findings.kept_bytes == sum(8 * param.numel() for param in model.parameters())


@pytest.mark.parametrize("kind", ["sharp", "optimizer", "replay"])
def test_nothing_of_it_stays(kind: str) -> None:
    model = noisy()
    rule = fm.while_large(fm.sam(0.3), 0.0)
    if kind == "sharp":
        patient: Any = fm.SharpnessAware(model, rule)
    else:
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        replay = model if kind == "replay" else None
        patient = fm.SharpnessAwareOptimizer(base, rule, replay=replay)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    buffers, state = copy.deepcopy(list(model.buffers())), copy.deepcopy(patient.state_dict())
    random = torch.get_rng_state()
    with restored(model.parameters(), and_gradients=True):
        examined(model, patient)
    assert same_bits(list(model.buffers()), buffers)
    assert same_bits(patient.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_in_bfloat16_swallow_the_displacement() -> None:
    model = nn.Linear(64, 64).bfloat16()
    sharp = fm.SharpnessAware(model, fm.sam(0.001))
    x = torch.randn(8, 64).bfloat16()
    with pytest.warns(UserWarning, match=r"of the coordinates did not move: .* bfloat16; keep the"):
        findings = fm.doctor(model, sharp, lambda x: model(x).float().square().mean(), (x,))
    assert findings.moved < 0.9 and findings.cosine < 0.99
    assert any(f"{1 - findings.moved:.1%}" in doubt for doubt in findings.doubts)
    assert all(row.dtype == "bfloat16" for row in findings.parameters)
    assert findings.weights_return


def test_a_rule_that_does_not_look_uphill() -> None:
    model = smooth()
    with pytest.warns(UserWarning, match="the rule did not displace the weights in two steps"):
        findings = examined(model, fm.SharpnessAware(model, fm.sam(0.0)))
    assert findings.moved is None and findings.parameters == () and findings.gradients == 1
    assert "none" in str(findings)


def test_a_loss_that_moves_the_weights_is_found() -> None:
    model = smooth()

    def loss_fn(x: Any, y: Any) -> Any:
        loss = loss_of(model)(x, y)
        with torch.no_grad():
            next(model.parameters()).add_(0.1)
        return loss

    with warnings.catch_warnings(record=True) as caught, restored(model.parameters()):
        warnings.simplefilter("always")
        sharp = fm.SharpnessAware([*model.parameters()], fm.sam(0.3))
        findings = fm.doctor(model, sharp, loss_fn, batches(1)[0])
    assert not findings.weights_return
    assert any("the weights did not come back" in str(one.message) for one in caught)
    assert "DO NOT COME BACK" in str(findings) and "DOUBT" in str(findings)


def test_statistics_and_noise_of_the_losss_own_are_found() -> None:
    model, generator = noisy(), torch.Generator().manual_seed(1)
    kept = nn.Module()
    kept.register_buffer("calls", torch.zeros(()))
    model.add_module("kept", kept)

    def loss_fn(x: Any, y: Any) -> Any:
        kept.calls = torch.rand((), generator=generator)  # which nobody restores
        torch.manual_seed(int(torch.randint(2**60, (), generator=generator)))
        return loss_of(model[:5])(x, y)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sharp = fm.SharpnessAware(model, fm.sam(0.3))
        findings = fm.doctor(model, sharp, loss_fn, batches(1)[0])
    assert not findings.buffers_once and not findings.random_state_once
    said = " ".join(str(one.message) for one in caught)
    assert "buffers moved otherwise than in one plain pass" in said
    assert "the random state is not that after one pass" in said
    assert "OTHERWISE THAN ONCE" in str(findings)


def test_groups_of_m_examples() -> None:
    model = smooth()
    findings = examined(model, fm.SharpnessAware(model, fm.sam(0.3), m=2))
    assert findings.m == 2 and findings.batch == 6
    assert "2 examples per perturbation" in str(findings)


def test_parameters_with_a_radius_of_zero_stay() -> None:
    model = smooth()
    described = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "rho": 0.0}]
    findings = examined(model, fm.SharpnessAware(described, fm.sam(0.3)))
    assert [row.moved for row in findings.parameters] == [1.0, 1.0, None, None]
    assert [row.realised > 0 for row in findings.parameters] == [True, True, False, False]


def test_the_report_reads_well() -> None:
    model = noisy()
    report = str(examined(model, fm.SharpnessAware(model, fm.sam(0.3), same_noise=False)))
    for words in (
        "2 gradients per step",
        "100.0% of the coordinates moved, cosine 1.0000",
        "come back bit for bit",
        "3 move once per step, as 1.running_mean",
        "afresh in every pass",
        "the whole batch, 6 examples per perturbation",
        "times a plain pass",
        "MiB of copies are kept",
        "1.weight",
    ):
        assert words in report, report


def test_what_it_cannot_examine_is_refused() -> None:
    model, (batch,) = smooth(), batches(1)
    with pytest.raises(TypeError, match="sharp_or_optimizer must be a SharpnessAware or a"):
        fm.doctor(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_of(model), batch)  # pyright: ignore
    with pytest.raises(TypeError, match="batch must be a tuple of what loss_fn takes, got list"):
        fm.doctor(model, fm.SharpnessAware(model, fm.sam()), loss_of(model), list(batch))  # pyright: ignore


def test_a_batch_without_examples_is_as_good() -> None:
    model, ((x, y),) = smooth(), batches(1)
    sharp = fm.SharpnessAware(model, fm.sam(0.3))
    findings = fm.doctor(model, sharp, lambda: loss_of(model)(x, y), ())
    assert findings.batch is None and "the whole batch examples" in str(findings)
