"""The settings of sources that several studies re-run, and the small ones that stand in for them.

    digits()     no source: images of 8 by 8 pixels, for presets that end within a minute
    foret()      Foret et al. 2021, arXiv:2010.01412, on CIFAR
    andriushchenko()   Andriushchenko and Flammarion 2022, arXiv:2206.06232, on CIFAR
    geometry()   lhchau/geometry-sam (2024), on CIFAR-100

Each returns the training that a study's arms begin with; what a source leaves open is said in the
study's differences.
"""

from dataclasses import replace

from flatminima.data import Augment, Cifar10, Cifar100, Data, Digits, Mnist
from flatminima.models import MLP, Architecture, CifarResNet, WideResNet
from flatminima.train import SGD, Evaluation, Loss, Training

__all__ = ["andriushchenko", "digits", "foret", "geometry", "mnist", "small_digits", "with_noise"]


def digits(*, noise: float = 0.0, epochs: int = 40, train: int = 500) -> Training:
    """A small network on few digits: a second of one core."""
    return Training(
        data=Digits(train=train, validation=297, test=500, noise=noise),
        model=MLP(hidden=(64, 64)),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        epochs=epochs,
        batch_size=50,
        evaluation=Evaluation(every=max(1, epochs // 20)),
    )


def small_digits(*, noise: float = 0.0, epochs: int = 40) -> Training:
    """The same on fewer digits, for many runs: half a second of one core."""
    return digits(noise=noise, epochs=epochs, train=200)


def mnist(*, noise: float = 0.0, epochs: int = 40) -> Training:
    """A network of two layers on 10 000 images of MNIST: about two minutes of one core."""
    return Training(
        data=Mnist(train=10_000, validation=5_000, test=10_000, noise=noise),
        model=MLP(hidden=(256, 256)),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        epochs=epochs,
        batch_size=128,
        evaluation=Evaluation(every=2),
    )


def foret(data: Data, model: Architecture | None = None, *, epochs: int = 200) -> Training:
    """A WideResNet-28-10 by SGD with a cosine, batches of 256, crops and flips."""
    return Training(
        data=data,
        model=model or WideResNet(depth=28, width=10),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        epochs=epochs,
        batch_size=256,
        augment=Augment(),
    )


def andriushchenko(*, classes: int = 10, noise: float = 0.0, epochs: int = 200) -> Training:
    """A ResNet-18 with GroupNorm (34 on CIFAR-100), weight decay in the loss, steps of 1/10."""
    data = Cifar10 if classes == 10 else Cifar100
    return Training(
        data=data(standardized=False, noise=noise),
        model=CifarResNet(depth=18 if classes == 10 else 34, norm="group"),
        optimizer=SGD(lr=0.1, momentum=0.9),
        loss=Loss(weight_decay=5e-4),
        schedule="piecewise",
        epochs=epochs,
        batch_size=128,
        augment=Augment(),
        drop_last=True,
        evaluation=Evaluation(every=5),
    )


def geometry(model: Architecture | None = None) -> Training:
    """A ResNet-18 on CIFAR-100 with cutout, batches of 256, weight decay 0.001, 200 epochs."""
    return Training(
        data=Cifar100(),
        model=model or CifarResNet(depth=18),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-3),
        epochs=200,
        batch_size=256,
        augment=Augment(cutout=16),
        drop_last=True,
    )


def with_noise(training: Training, noise: float) -> Training:
    """The training with a share of its labels flipped."""
    return replace(training, data=replace(training.data, noise=noise))
