"""The networks of the literature: as large as published, and the same function as elsewhere."""

from __future__ import annotations

import hashlib

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from flatminima.models import (
    CIFAR_NET,
    MNIST_NET,
    CifarResNet,
    Mixer,
    PyramidNet,
    ShakeShake,
    Timm,
    Torchvision,
    ViT,
    WideResNet,
    parameters,
)
from flatminima.models.shake import Shake, ShakeDrop, true_gradient

# Millions as the papers round them, or all digits as the reference implementations count them:
# the residual ones those of torchvision with a 3x3 stem, the others those of pytorchcv 0.0.74.
SIZES = {
    CifarResNet(depth=18): 11_173_962,
    CifarResNet(depth=32, width=16): 466_906,  # published: 0.46 million, with plainer shortcuts
    CifarResNet(depth=34): 21_282_122,
    CifarResNet(depth=50): 23_520_842,
    CifarResNet(depth=101): 42_512_970,
    CifarResNet(depth=152): 58_156_618,
    CifarResNet(depth=18, norm="group"): 11_173_962,
    WideResNet(depth=28, width=10): 36_479_194,
    WideResNet(depth=16, width=8): 10_961_370,
    WideResNet(depth=16, width=4): 2_748_890,
    WideResNet(depth=16, width=10): 17_116_634,
    WideResNet(depth=40, width=10): 55_841_754,
    ShakeShake(depth=26, width=32): 2_923_162,
    ShakeShake(depth=26, width=96): 26_192_922,
    PyramidNet(depth=110, alpha=48, bottleneck=False): 1_772_706,
    PyramidNet(depth=110, alpha=270, bottleneck=False): 28_485_477,
    PyramidNet(depth=164, alpha=270): 27_216_021,
    PyramidNet(depth=272, alpha=200): 26_210_842,
    PyramidNet(depth=272, alpha=200, shakedrop=True): 26_210_842,
}
SMALL = [
    CifarResNet(width=4, norm="group"),
    CifarResNet(depth=50, width=4),
    WideResNet(depth=10, width=1),
    WideResNet(depth=10, width=1, norm="group"),
    ShakeShake(depth=8, width=4),
    PyramidNet(depth=11, alpha=6),
    PyramidNet(depth=8, alpha=6, bottleneck=False, shakedrop=True),
    ViT(width=12, depth=2),
    Mixer(width=12, depth=2),
]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        pytest.param(*row, marks=pytest.mark.slow if row[0].depth > 50 else ())
        for row in SIZES.items()
    ],
    ids=str,
)
def test_a_network_is_as_large_as_published_and_gives_a_value_per_class(settings, size):
    with torch.device("meta"):  # shapes without numbers
        model = settings.build((3, 32, 32), 10)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert parameters(model) == size


def test_wide_networks_without_normalisation_have_biases_in_its_place():
    with torch.device("meta"):
        model = WideResNet(depth=40, width=10, norm="none").build((3, 32, 32), 10)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in model.modules())
    norms = sum(2 * width for width in norm_widths(40, 10))
    biases = 16 + 2 * 6 * (160 + 320 + 640)
    assert parameters(model) == 55_841_754 - norms + biases


def norm_widths(depth, width):
    before = 16
    for stage in range(3):
        after = 16 * width * 2**stage
        for _ in range((depth - 4) // 6):
            yield from (before, after)
            before = after
    yield before


def test_a_block_without_normalisation_begins_as_the_identity():
    model = WideResNet(depth=16, width=1, norm="none").build((3, 32, 32), 10)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(model[2](x), x)


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_every_network_is_built_for_other_images_and_classes(settings):
    model = settings.build((1, 16, 16), 7)
    x = torch.rand(4, 1, 16, 16)
    assert model(x).shape == (4, 7)
    model(x).square().sum().backward()
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_the_residual_network_is_the_one_of_torchvision_but_for_the_stem(depth):
    ours = CifarResNet(depth=depth, width=64).build((3, 32, 32), 10)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("settings", "patches", "block"),
    [
        # attention 4 d^2 + 4 d, feed-forward 8 d^2 + 5 d, two normalisations 4 d
        (ViT(), 64, lambda d, n: 12 * d**2 + 13 * d),
        # over patches: d / 2 hidden; over channels: 4 d hidden; two normalisations
        (Mixer(), 64, lambda d, n: (d * n + d // 2 + n) + (8 * d**2 + 5 * d) + 4 * d),
    ],
    ids=["vit", "mixer"],
)
def test_networks_of_patches_have_the_size_that_their_equations_give(settings, patches, block):
    model, d = settings.build((3, 32, 32), 10), settings.width
    stem, head = 48 * d + d, 2 * d + 10 * d + 10
    tokens = (patches + 1) * d + d if isinstance(settings, ViT) else 0  # positions and the class
    assert parameters(model) == stem + tokens + settings.depth * block(d, patches) + head


def test_the_networks_of_the_slides_fit_their_data():
    assert MNIST_NET.build((1, 28, 28), 10)(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert CIFAR_NET.build((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


# ---- branches mixed at random


def test_shake_mixes_each_image_by_one_share_forward_and_another_backward():
    one, two = torch.zeros(6, 1, 2, 2, requires_grad=True), torch.ones(6, 1, 2, 2)
    shake = Shake()
    mixed = shake(one, two)  # 1 - a
    mixed.sum().backward()
    ahead, back = 1 - mixed[:, 0, 0, 0], one.grad[:, 0, 0, 0]
    assert len(ahead.unique()) == 6
    assert ((ahead >= 0) & (ahead <= 1) & (back >= 0) & (back <= 1)).all()
    assert not torch.allclose(ahead, back)
    assert torch.equal(shake.eval()(one, two), torch.full((6, 1, 2, 2), 0.5))


@pytest.mark.parametrize("layer", ["shake", "drop"])
def test_with_a_true_gradient_the_backward_factors_are_those_of_the_forward_pass(layer):
    module = Shake() if layer == "shake" else ShakeDrop(keep=0.0)
    true_gradient(module, True)
    x = torch.rand(6, 1, 2, 2, requires_grad=True)
    mixed = module(x, torch.zeros_like(x)) if layer == "shake" else module(x)
    mixed.sum().backward()
    torch.testing.assert_close(x.grad * x, mixed)
    true_gradient(module, False)
    assert not module.true_gradient


def test_shakedrop_keeps_a_branch_as_often_as_it_should_and_on_average_scales_by_that():
    drop, ones = ShakeDrop(keep=0.7), torch.ones(500, 1, 1, 1)
    batches = [drop(ones) for _ in range(400)]
    kept = sum(bool((batch == 1).all()) for batch in batches)
    assert abs(kept - 280) < 5 * (400 * 0.7 * 0.3) ** 0.5
    dropped = torch.cat([batch for batch in batches if not (batch == 1).all()])
    assert -1 <= dropped.min() < -0.99
    assert 0.99 < dropped.max() <= 1
    assert abs(dropped.mean()) < 0.02
    assert torch.equal(drop.eval()(ones), 0.7 * ones)


def test_the_last_block_of_a_pyramid_is_kept_half_of_the_time():
    model = PyramidNet(depth=20, alpha=9, shakedrop=True).build((3, 32, 32), 10)
    keeps = [module.keep for module in model.modules() if isinstance(module, ShakeDrop)]
    assert keeps == pytest.approx([1 - 0.5 * k / 6 for k in range(1, 7)])


# ---- networks of other libraries


def test_weights_of_a_file_are_taken_and_a_new_head_is_left_alone(tmp_path):
    source = timm.create_model("resnet10t", num_classes=5)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    same = Timm(name="resnet10t", weights=str(path), sha256=digest).build((3, 64, 64), 5)
    assert all(map(torch.equal, same.state_dict().values(), source.state_dict().values()))
    tuned = Timm(name="resnet10t", weights=str(path), new_head=True).build((3, 64, 64), 7)
    names = [name for name in source.state_dict() if not name.startswith("fc.")]
    assert all(torch.equal(tuned.state_dict()[name], source.state_dict()[name]) for name in names)
    assert tuned(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_torchvision_builds_by_name_too(tmp_path):
    source = torchvision.models.mobilenet_v3_small(num_classes=5)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    settings = Torchvision(name="mobilenet_v3_small", weights=str(path), new_head=True)
    tuned = settings.build((3, 32, 32), 7).eval()
    assert tuned(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert torch.equal(tuned.classifier[0].weight, source.classifier[0].weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=5).state_dict(), path)
    missing = Timm(name="resnet10t", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="weights must be a file that exists, got"):
        missing.build((3, 64, 64), 5)
    with pytest.raises(ValueError, match="weights must have the SHA-256 abc, got"):
        Timm(name="resnet10t", weights=str(path), sha256="abc").build((3, 64, 64), 5)
    with pytest.raises(ValueError, match="weights must fit the network, got fc.bias of shape"):
        Timm(name="resnet10t", weights=str(path)).build((3, 64, 64), 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: CifarResNet(depth=20), "depth must be one of 18, 32, 34, 50, 101, 152, got 20"),
        (lambda: WideResNet(depth=20), "depth must be 6 n .* 4, such as 16, 28 or 40, got 20"),
        (lambda: WideResNet(width=0), "width must be at least 1, got 0"),
        (lambda: WideResNet(norm="layer"), "norm must be one of batch, group, none, got 'layer'"),
        (lambda: ShakeShake(depth=27), "depth must be 6 n .* 2, such as 26, got 27"),
        (lambda: ShakeShake(width=3), "width must be even and at least 2, got 3"),
        (lambda: PyramidNet(depth=109), "depth must be 9 n .* 2 with bottleneck=True, got 109"),
        (lambda: PyramidNet(alpha=0), "alpha must be at least 1 channel, got 0"),
        (lambda: ViT(depth=0), "depth must be at least 1, got 0"),
        (lambda: ViT(heads=5), "width must be a multiple of heads 5, got 192"),
        (lambda: ViT(patch=5).build((3, 32, 32), 10), "patch must divide a square image, got 5"),
        (lambda: Timm(name="no").build((3, 32, 32), 10), "name must be a model of timm, got 'no'"),
        (
            lambda: Torchvision(name="no").build((3, 32, 32), 10),
            "name must be a model of torchvision, got 'no'",
        ),
        (
            lambda: Torchvision(name="resnet18").build((1, 32, 32), 10),
            "images must have 3 channels for torchvision, got 1",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()


def test_group_normalisation_needs_an_even_width():
    from flatminima.models.normalisation import check_norm

    with pytest.raises(ValueError, match="width must be even with group normalisation, got 3"):
        check_norm("group", 3)
