"""Certificates: bounds for a distribution over the weights that was trained to make them small.

    1  `train_posterior`   minimises, over the mean and the deviation of every weight and over the
                           prior's variance,   surrogate loss + sqrt(complexity / 2)
    2  `certificate`       draws networks from it, and inverts the binary kl twice: from the error
                           of the draws to the error of the distribution on the n examples, and from
                           there to its error on new data

The prior is N(w0, lambda I) with w0 chosen without the data, the random initialisation say.

Source: Dziugaite and Roy 2017, arXiv:1703.11008.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.objective import Objective
from flatminima.sharpness.estimate import stream
from flatminima.sharpness.pac_bayes.divergence import kl_inverse
from flatminima.vector import Vector

__all__ = ["Certificate", "Posterior", "certificate", "complexity", "train_posterior"]

LARGEST = 0.1  # the prior's variance is LARGEST exp(-j / FINENESS) for a j = 1, 2, ...
FINENESS = 100
NEARLY_ONE = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """A Gaussian over the weights, with a deviation for each, and the prior it is measured by."""

    mean: Vector
    deviation: Vector  # of each weight, > 0
    prior: Vector  # w0, the mean of the prior
    prior_variance: float  # lambda

    @property
    def kl(self) -> float:
        """The divergence from the prior, in nats."""
        variance = self.prior_variance
        log = torch.tensor(math.log(variance), dtype=torch.float64)
        wide = [v.map(Tensor.double) for v in (self.mean, self.deviation, self.prior)]
        return float(_kl(wide[0] - wide[2], wide[1].map(torch.log), log))

    def draw(self, generator: torch.Generator) -> Vector:
        """One network of the distribution."""
        return self.mean + self.deviation * self.mean.randn_like(generator)

    def __repr__(self) -> str:
        k = sum(part.numel() for part in self.mean.tensors)
        prior = f"prior variance {self.prior_variance:.3g}"
        return f"Posterior({k:,} weights, kl {self.kl:.5g} at {prior})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """A bound on the error of a distribution over networks on new data, with all its terms."""

    value: float  # the bound
    error: float  # the mean error of the draws on the n examples
    error_bound: float  # the error of the distribution there is below this
    draws: int
    kl: float  # nats
    complexity: float  # (kl + grid + confidence) / (n - 1), nats
    prior_variance: float  # the one of the grid that gives the smaller bound
    n: int
    confidence: float  # the bound holds with this probability

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing; the kl bound never exceeds 1, but comes near it."""
        return self.value > NEARLY_ONE

    def __repr__(self) -> str:
        word = " (vacuous)" if self.vacuous else ""
        return (
            f"Certificate(error on new data < {self.value:.4g}{word} with probability "
            f"{self.confidence:g}; {self.error:.4g} on {self.n:,} examples, kl {self.kl:.5g})"
        )


def complexity(kl: float, n: int, prior_variance: float, delta: float = 0.025) -> float:
    """What a certificate's divergence is bounded by.

        [ KL + 2 ln(b ln(c / lambda)) + ln(pi^2 n / (6 delta)) ] / (n - 1),   b = 100, c = 0.1

    Args:
        kl: The divergence of the posterior from the prior, in nats.
        n: The number of examples.
        prior_variance: lambda, below c, of the grid c exp(-j / b), j = 1, 2, ...
        delta: The chance that the bound does not hold.

    Returns:
        The bound on kl(error || error on new data), in nats.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Dziugaite and Roy 2017, arXiv:1703.11008.

    Example:
        >>> round(kl_inverse(0.028, complexity(5144, 55_000, prior_variance=math.exp(-7))), 3)
        0.161
    """
    if not kl >= 0:
        raise ValueError(f"kl must be >= 0, got {kl}")
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}; it counts the examples")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be > 0 and < 1, got {delta}")
    if not 0 < prior_variance < LARGEST:
        raise ValueError(f"prior_variance must be > 0 and < {LARGEST}, got {prior_variance}")
    log = torch.tensor(math.log(prior_variance), dtype=torch.float64)
    return float(_complexity(torch.tensor(kl, dtype=torch.float64), n, log, delta))


def train_posterior(
    objective: Objective,
    w: Vector,
    prior: Vector,
    *,
    n: int | None = None,
    steps: int = 1000,
    lr: float = 0.01,
    deviation: float = 0.03,
    prior_variance: float = 0.01,
    delta: float = 0.025,
    seed: int = 0,
) -> Posterior:
    """A distribution over the weights whose certificate is small.

        min over mean, deviation, lambda of   E f(mean + deviation z) + sqrt(complexity / 2)

    Args:
        objective: A differentiable loss that is nowhere below the error: the cross-entropy over
            ln 2, say, which a mistake never leaves below 1. Its batches are taken in turns.
        w: Where the mean starts: trained weights, mostly.
        prior: The mean of the prior; it must not depend on the data.
        n: How many examples; by default those of the objective.
        steps: Steps of Adam, each on one batch and one draw.
        lr: Its learning rate, for means, log deviations and the log of the variance alike. Tuned on
            scikit-learn's digits.
        deviation: Where the deviation of every weight starts.
        prior_variance: Where lambda starts.
        delta: As in `complexity`.
        seed: Of the draws.

    Returns:
        The distribution. Whatever it is, its certificate holds; a better one is only smaller.

    Raises:
        ValueError: If the number of examples is not known, or an argument is out of its range.

    Source: Dziugaite and Roy 2017, arXiv:1703.11008.
    Differs: Adam in place of RMSprop, and far fewer steps.
    Cost: one gradient on one batch for each step.

    Example:
        >>> f = Objective(lambda w: w.dot(w))
        >>> w = Vector([torch.ones(2)])
        >>> train_posterior(f, w, prior=w, n=100, steps=10).kl < 100
        True
    """
    count = _examples(objective, n)
    complexity(0.0, count, prior_variance, delta)  # refuses what is out of range
    generator = stream(seed)
    mean = w.map(lambda part: part.clone().requires_grad_())
    spread = w.map(lambda part: torch.full_like(part, math.log(deviation)).requires_grad_())
    log = torch.tensor(math.log(prior_variance), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([*mean.tensors, *spread.tensors, log], lr=lr)
    for piece in _in_turns(objective, steps):
        z = w.randn_like(generator)
        with torch.no_grad():
            g = piece.gradient(mean + spread.map(torch.exp) * z)
        with torch.enable_grad():
            kl = _kl(mean - prior, spread, _capped(log))
            slope = mean.dot(g) + spread.map(torch.exp).dot(z * g)  # as the loss has it
            root = (0.5 * _complexity(kl, count, _capped(log), delta)).sqrt()
            optimizer.zero_grad()
            (slope + root).backward()
        optimizer.step()
    return Posterior(
        mean=mean.detach(),
        deviation=spread.detach().map(torch.exp),
        prior=prior,
        prior_variance=math.exp(float(_capped(log.detach()))),
    )


def certificate(
    error: Objective,
    posterior: Posterior,
    *,
    n: int | None = None,
    draws: int = 1000,
    delta: float = 0.025,
    delta_draws: float = 0.01,
    seed: int = 1,
) -> Certificate:
    """The bound on the error of a distribution over networks, on new data.

        kl_inverse( kl_inverse(mean error of N draws, ln(2 / delta') / N), complexity )

    It holds with probability 1 - delta - delta' for a network drawn anew for every prediction, not
    for the network in the middle.

    Args:
        error: The share of mistakes, or another loss in [0, 1], on the n examples.
        posterior: The distribution.
        n: How many examples, drawn independently; by default those of the objective.
        draws: N. More of them bring the bound down to what the distribution deserves.
        delta: The chance that the sample of examples misleads.
        delta_draws: delta', the chance that the draws mislead.
        seed: Of the draws; another one than in training.

    Returns:
        The bound with its terms. The word *vacuous* is printed where it comes near 1.

    Raises:
        ValueError: If an argument is out of its range, or a loss is.

    Source: Dziugaite and Roy 2017, arXiv:1703.11008, who make 150,000 draws.
    Cost: `draws` evaluations of the error.

    Example:
        >>> w = Vector([torch.zeros(2)])
        >>> same = Posterior(mean=w, deviation=w + Vector([torch.full((2,), 0.1)]),
        ...                  prior=w, prior_variance=0.01)
        >>> certificate(Objective(lambda w: 0 * w.norm()), same, n=10_000, draws=1000).value < 0.02
        True
    """
    count = _examples(error, n)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not 0 < delta_draws < 1:
        raise ValueError(f"delta_draws must be > 0 and < 1, got {delta_draws}")
    generator = stream(seed)
    errors = [float(error.value(posterior.draw(generator))) for _ in range(draws)]
    if not all(0 <= one <= 1 for one in errors):
        wrong = next(one for one in errors if not 0 <= one <= 1)
        raise ValueError(f"error must be in [0, 1], got {wrong}; take the share of mistakes")
    mean = math.fsum(errors) / draws
    error_bound = kl_inverse(mean, math.log(2.0 / delta_draws) / draws)
    near = _on_grid(posterior)
    terms = [(complexity(one.kl, count, one.prior_variance, delta), one) for one in near]
    smallest, best = min(terms, key=lambda term: term[0])
    return Certificate(
        value=kl_inverse(error_bound, smallest),
        error=mean,
        error_bound=error_bound,
        draws=draws,
        kl=best.kl,
        complexity=smallest,
        prior_variance=best.prior_variance,
        n=count,
        confidence=1.0 - delta - delta_draws,
    )


def _on_grid(posterior: Posterior) -> Iterator[Posterior]:
    """The posterior beside the two variances of the grid that are next to its own."""
    j = FINENESS * math.log(LARGEST / posterior.prior_variance)
    for index in {max(1, math.floor(j)), max(1, math.ceil(j))}:
        yield Posterior(
            mean=posterior.mean,
            deviation=posterior.deviation,
            prior=posterior.prior,
            prior_variance=LARGEST * math.exp(-index / FINENESS),
        )


def _in_turns(objective: Objective, steps: int) -> Iterator[Objective]:
    pieces = [objective.on([batch]) for batch in objective.batches] or [objective]
    return (pieces[step % len(pieces)] for step in range(steps))


def _kl(away: Vector, spread: Vector, log: Tensor) -> Tensor:
    """KL(N(mean, diag(exp(2 spread))) || N(prior, exp(log) I)), with `away` = mean - prior."""
    k = sum(part.numel() for part in away.tensors)
    deviation = spread.map(torch.exp)
    squares = (deviation.dot(deviation) + away.dot(away)) / log.exp()
    logs = torch.stack([part.sum().double() for part in spread.tensors]).sum()
    return 0.5 * (squares - k + k * log - 2.0 * logs)


def _complexity(kl: Tensor, n: int, log: Tensor, delta: float) -> Tensor:
    grid = 2.0 * (FINENESS * (math.log(LARGEST) - log)).log()
    return (kl + grid + math.log(math.pi**2 * n / (6.0 * delta))) / (n - 1)


def _capped(log: Tensor) -> Tensor:
    """The log of a variance, kept to the grid."""
    return log.clamp(max=math.log(LARGEST) - 1.0 / FINENESS)


def _examples(objective: Objective, n: int | None) -> int:
    count = objective.examples if n is None else n
    if count is None:
        raise ValueError("n must be given for an objective without batches, got None")
    return round(count)
