"""A sharp valley beside a flat one of the same depth: where do plain descent and SAM end?

python examples/two_valleys.py

Neither always ends in the flat one: a large radius leaves the sharp valley, and comes to rest on
the ridge, where one look uphill lands exactly at the bottom of the sharp valley.
"""

import torch

import flatminima as fm


def valleys(w: torch.Tensor) -> torch.Tensor:
    """Two parabolas that meet at -0.82: curvature 400 around -1 and 4 around 1, both of depth 0."""
    return torch.minimum(200 * (w + 1) ** 2, 2 * (w - 1) ** 2).sum()


def ends(rule: fm.Rule | None) -> torch.Tensor:
    """Where 20 starts are after 200 steps."""
    found = []
    for start in torch.linspace(-1.6, 1.6, 20):
        w = torch.nn.Parameter(start.reshape(1).clone())
        optimizer = torch.optim.SGD([w], lr=0.002)
        sharp = fm.SharpnessAware([w], rule) if rule else None
        for _ in range(200):
            optimizer.zero_grad()
            if sharp:
                sharp.backward(valleys, w)
            else:
                valleys(w).backward()
            optimizer.step()
        found.append(w.detach())
    return torch.cat(found)


print("share of the starts that end in the  sharp valley    flat valley    on the ridge")
for name, rule in (
    ("plain descent", None),
    ("SAM, rho 0.1", fm.sam(rho=0.1)),
    ("SAM, rho 0.4", fm.sam(rho=0.4)),
):
    w = ends(rule)
    sharp, flat = (w < -0.82).float().mean(), (w > 0.5).float().mean()
    print(f"{name:<34}{sharp:>15.0%}{flat:>15.0%}{1 - sharp - flat:>16.0%}")
