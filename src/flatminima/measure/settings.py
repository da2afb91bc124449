"""What determines the numbers of a measurement, beside the network and the data."""

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is measured."""

    rho: float = 0.05
    """The radius of everything that looks around the weights."""
    m: int = 16
    """Examples per group of m-sharpness."""
    eigenvalues: int = 5
    """How many of the largest eigenvalues of the Hessian."""
    samples: int = 16
    """Random vectors of the trace, and of average-case sharpness."""
    steps: int = 40
    """Lanczos steps of each run of the density, of which there are four."""
    reach: float = 1.0
    """How far the slices go to either side; 1 is as long as the filters' own weights."""
    points: int = 41
    """Points of the line."""
    surface_points: int = 15
    """Points along each side of the plane."""
    seed: int = 0
    """Decides every random number."""

    def __post_init__(self) -> None:
        if not self.rho > 0 or not self.reach > 0:
            raise ValueError(f"rho and reach must be > 0, got {self.rho} and {self.reach}.")
        if min(self.m, self.eigenvalues, self.samples, self.steps) < 1:
            raise ValueError(
                "m, eigenvalues, samples and steps must be at least 1, got "
                f"{self.m}, {self.eigenvalues}, {self.samples} and {self.steps}."
            )
        if min(self.points, self.surface_points) < 2:
            raise ValueError(
                "points and surface_points must be at least 2, "
                f"got {self.points} and {self.surface_points}."
            )
