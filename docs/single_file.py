"""Write examples/single_file/sam.py: plain SAM and ASAM to paste. `python docs/single_file.py`

Names, formulas, defaults and sources are read from the library, so that the file follows it; a test
compares the numbers.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import flatminima
from flatminima.rules.zoo import asam, sam

TARGET = Path(__file__).parents[1] / "examples" / "single_file" / "sam.py"
FILE = '''"""SAM and ASAM to paste, generated from flatminima {version} by docs/single_file.py.

{formulas}

    sharp = SAM(model.parameters(), rho={rho})  # ASAM: adaptive=True, rho={asam_rho}
    for x, y in loader:
        optimizer.zero_grad()
        loss = sharp.backward(lambda: loss_fn(model(x), y))  # was: loss.backward()
        optimizer.step()  # schedulers, clipping, accumulation: unchanged

{sources}

With a `torch.amp.GradScaler`: `sharp.backward(closure, scaler)`, then `scaler.step(optimizer)`. The
library has what is left out here: the rest of the family, m-SAM, DDP and FSDP2, frameworks.
Licence: Apache-2.0.
"""

import torch


class SAM:
    """Puts the gradient at the worst point of a ball where the plain gradient would have been.

    rho: the radius of the ball. adaptive, eta: as ASAM scales it, by t = |w| + eta.
    model: its buffers, such as running statistics, then move in the first pass only.
    """

    def __init__(self, params, rho={rho}, adaptive=False, eta={eta}, model=None):
        self.params = [p for p in params if p.requires_grad]
        self.rho, self.adaptive, self.eta, self.model = rho, adaptive, eta, model
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho must be >= 0 and finite, got {{rho}}")
        if not self.params:
            raise ValueError("params must include one that requires a gradient, got none")

    def backward(self, closure, scaler=None):
        """Add the SAM gradient to `.grad`; returns the loss at the weights.

        closure: makes the forward pass and returns the mean loss; it is called twice.
        """
        kept, noise = [p.grad for p in self.params], self._noise()
        try:
            loss, g, direction = self._gradient(closure, scaler)
            if self.rho > 0:
                direction = self._uphill(closure, scaler, g, noise)
        except BaseException:
            for p, grad in zip(self.params, kept):
                p.grad = grad
            raise
        for p, before, d in zip(self.params, kept, direction):
            p.grad = before if d is None else d if before is None else before.add_(d)
        return loss

    def _uphill(self, closure, scaler, g, noise):
        """The gradient at the displaced weights, with the same dropout masks."""
        buffers, after = self._buffers(), self._noise()
        weights = [p.detach().clone() for p in self.params]
        try:
            self._restore(noise)
            with torch.no_grad():
                for p, part in zip(self.params, self._displacement(g)):
                    if part is not None:
                        p.add_(part)
            torch.clear_autocast_cache()
            return self._gradient(closure, scaler)[2]
        finally:  # by copying back, not by subtracting; also if the closure raises
            with torch.no_grad():
                for tensor, value in [*zip(self.params, weights), *buffers]:
                    tensor.copy_(value)
            torch.clear_autocast_cache()
            self._restore(after)

    def _gradient(self, closure, scaler):
        """The loss, the gradient, and the gradient as the scaler wants it."""
        for p in self.params:
            p.grad = None
        with torch.enable_grad():
            loss = closure()
        (loss if scaler is None else scaler.scale(loss)).backward(inputs=self.params)
        scaled = [p.grad for p in self.params]
        if scaler is None:
            return loss.detach(), scaled, scaled
        back = 1.0 / scaler.scale(torch.ones((), device=loss.device))
        return loss.detach(), [g if g is None else g * back for g in scaled], scaled

    @torch.no_grad()
    def _displacement(self, g):
        """rho g / ||g||, or with t = |w| + eta: rho t^2 g / ||t g||; else 0."""
        t = [p.abs() + self.eta if self.adaptive else None for p in self.params]
        slope = [a if a is None or b is None else b * a for a, b in zip(g, t)]
        there = [s for s in slope if s is not None]
        if not there:
            return slope
        wide = torch.float64 if there[0].dtype == torch.float64 else torch.float32
        norms = [torch.linalg.vector_norm(s, dtype=wide) for s in there]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        usable = norm.isfinite() & (norm > 0)  # decided on the device, without asking the host
        share = torch.where(usable, self.rho / norm, 0.0)
        rows = (s if s is None or b is None else b * s for s, b in zip(slope, t))
        return [r if r is None else torch.where(usable, (share * r).to(r.dtype), 0.0) for r in rows]

    def _buffers(self):
        return [(b, b.clone()) for b in self.model.buffers()] if self.model is not None else []

    @staticmethod
    def _noise():
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return torch.get_rng_state(), cuda

    @staticmethod
    def _restore(noise):
        torch.set_rng_state(noise[0])
        if noise[1]:
            torch.cuda.set_rng_state_all(noise[1])
'''


def paragraph(member: Callable[..., object], name: str) -> str:
    """Return the paragraph of a member's docstring that opens with `name:`."""
    text = inspect.getdoc(member) or ""
    found = re.search(rf"^{name}: (.*?)(?=^\s*$|^\w+: |\Z)", text, re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def formula(member: Callable[..., object]) -> str:
    """Return the last line of the equation at the top of a member's docstring."""
    opening = (inspect.getdoc(member) or "").partition("\nArgs:")[0]
    lines = [line.strip() for line in opening.splitlines() if line.startswith("    ")]
    return f"    {member.__name__:5} {lines[-1].removeprefix('p = 2:').strip()}"


def default(member: Callable[..., object], name: str) -> object:
    """Return a default of a member."""
    return inspect.signature(member).parameters[name].default


def written() -> str:
    """Return the file."""
    sources = "\n".join(
        textwrap.fill(f"{member.__name__}: {paragraph(member, 'Source')}", 100)
        for member in (sam, asam)
    )
    return FILE.format(
        version=flatminima.__version__,
        formulas="\n".join(formula(member) for member in (sam, asam)),
        sources=sources,
        rho=default(sam, "rho"),
        asam_rho=default(asam, "rho"),
        eta=default(asam, "eta"),
    )


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8")
