"""SAM and ASAM to paste, generated from flatminima 0.1.0 by docs/single_file.py.

    sam   e = rho g / ||g||
    asam  e = rho t^2 g / || t g ||,   t = |w| + eta,   d = grad f(w + e)

    sharp = SAM(model.parameters(), rho=0.05)  # ASAM: adaptive=True, rho=0.5
    for x, y in loader:
        optimizer.zero_grad()
        loss = sharp.backward(lambda: loss_fn(model(x), y))  # was: loss.backward()
        optimizer.step()  # schedulers, clipping, accumulation: unchanged

sam: Foret et al. 2021, arXiv:2010.01412, equations 2 and 3.
asam: Kwon et al. 2021, arXiv:2102.11600, and the authors' code, SamsungLabs/ASAM.

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

    def __init__(self, params, rho=0.05, adaptive=False, eta=0.01, model=None):
        self.params = [p for p in params if p.requires_grad]
        self.rho, self.adaptive, self.eta, self.model = rho, adaptive, eta, model
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho must be >= 0 and finite, got {rho}")
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
