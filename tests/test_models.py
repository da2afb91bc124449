"""The networks of the studies."""

from __future__ import annotations

import pytest
import torch

from flatminima.models import MLP, SmallConv, mlp, small_conv

SETTINGS = [MLP(), MLP(hidden=()), SmallConv(), SmallConv(norm="batch")]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
def test_a_network_gives_one_value_per_class_for_images_of_any_size(settings, shape):
    assert settings.build(shape, 7)(torch.rand(5, *shape)).shape == (5, 7)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_parameter_gets_a_gradient(settings):
    model = settings.build((1, 8, 8), 10)
    model(torch.rand(5, 1, 8, 8)).square().sum().backward()
    assert all(param.grad is not None and param.grad.any() for param in model.parameters())


def test_a_seed_decides_the_initial_weights():
    torch.manual_seed(3)
    one = mlp(64, (16,), 10)
    torch.manual_seed(3)
    same = mlp(64, (16,), 10)
    assert all(map(torch.equal, one.parameters(), same.parameters()))


def test_group_norm_keeps_no_state_and_does_not_mix_examples():
    model = small_conv(1, 10, norm="group").train()
    x = torch.rand(5, 1, 8, 8)
    assert not list(model.buffers())
    torch.testing.assert_close(model(x)[:1], model(x[:1]))


def test_batch_norm_keeps_running_statistics_and_mixes_examples():
    model = small_conv(1, 10, norm="batch").train()
    x = torch.rand(5, 1, 8, 8)
    assert list(model.buffers())
    assert not torch.allclose(model(x)[:2], model(x[:2]))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"hidden must be widths of at least 1, got \(4, 0\)"):
        MLP(hidden=(4, 0))
    with pytest.raises(ValueError, match="width must be a positive multiple of 4, got 6"):
        SmallConv(width=6)
    with pytest.raises(ValueError, match="norm must be one of .*, got 'layer'"):
        SmallConv(norm="layer")
