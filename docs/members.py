"""Write members.md, and the table in the README: `python docs/members.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from flatminima.rules import schedule
from flatminima.rules.zoo import chance, cheaper, combining, regional, remembering, uphill

HEAD = """# Members

Every named method, from its own docstring (`python docs/members.py` writes this page). The letters
are those of [the notation](notation.md). Gradients are counted per step, of which plain training
takes 1; memory in buffers of the size of the weights beyond the gradients, of which putting the
weights back takes 1. Most members are one choice on each of five axes: the direction that is
climbed, the metric and the radius of the displacement, when it is made, and how the gradients
combine.
"""
SECTIONS = {
    "Where to look": uphill,
    "Where to look, by chance": chance,
    "Where to look, from earlier steps": remembering,
    "With fewer gradients": cheaper,
    "What to do with two gradients": combining,
    "What to do by region": regional,
}
WHEN = """
## When

These take a rule, any of the above or your own, and follow it at some steps only.

"""
NOTES = {
    "sam": "largest gains under label noise, with early stopping, and in fine-tuning; later papers "
    "report that it often hurts the pretraining of language models",
    "usam": "follows the scale of the loss; the form that theory treats",
    "awp": "made for robust training",
    "ssam": "saves no time on a GPU",
    "le_sam": "follows the scale of the loss",
    "fisher_sam": "small gain reported",
    "looksam": "cheap variants mostly do not match SAM under equal tuning",
    "momentum_sam": "the adaptive form is the exception among the cheap variants; its authors let "
    "rho be 0 in the warm-up of a ViT",
    "gradient_norm_penalty": "without a warm-up of alpha it made ViTs worse on CIFAR-10",
    "second_order_sam": "what SAM leaves out; at twice the cost, and reported not to help",
    "sagm": "made for domain generalisation",
    "xsam": "the authors' search for alpha is left out",
    "stable_sam": "widens the range of learning rates, by its abstract",
    "saner": "made for noisy labels",
    "window": "the last 12 % of training match all of it, by the abstract on late phases",
}
LAST = """
## Parameters

[`groups`](reference/rules.md) makes groups of parameters, each with a radius, by the kind of module
that they are in. `groups(model, {nn.LayerNorm: 0.1})` is SAM on the normalisation layers only
(Mueller et al., NeurIPS 2023), and a radius for each layer is one entry per layer. With `m`, any of
the members that remember nothing is its m-SAM.

## Methods of the loss

Two families look at outputs or at single losses, which a rule does not see. They are made of the
loss, and go with any rule that looks at the weights first.

| method | how |
|---|---|
| Functional SAM (Singh et al., ICML 2025) | `loss_fn = FunctionalLoss(model, criterion)`: the \
second pass sends the first one's gradient at the outputs through the displaced network |
| J-SAM (Baek et al., ICLR 2024) | the same with `m=1` |
| K-SAM (Ni et al., 2022) | `sharp.backward(loss_fn, *hardest(losses_fn, x, y, share=0.5))`: both \
gradients on the examples with the largest losses |

## Not here, and why

| method | why not |
|---|---|
| ESAM | its second pass is over the examples whose loss grew, so that each pass has a batch of \
its own, and it freezes tensors at random between them; its savings by examples are K-SAM's |
| bSAM, SASSHA, LightSAM, SAM-SPS | they are optimizers: the step size or the second moments \
belong to the update, which here is the user's own |
| IRE | acts on the weights after the base step, of which the gradient knows nothing |
| SAMPa, SL-SAM | two gradients on two devices; layers drawn before the backward pass |
| the search of XSAM | `xsam` has its angle fixed; the authors find it by forward passes at other \
points, where a rule would ask for gradients |
| SAF, MESA | a term of the loss with a memory of outputs: write it into the loss function |
| Lookbehind, Entropy-SGD | several descents within a step move the weights |
| GAM | four gradients and five hyper-parameters; as a rule of one's own it is ten lines |
"""


def paragraph(text: str, name: str) -> str:
    """Return the paragraph of a docstring that opens with `name:`, on one line."""
    found = re.search(rf"^{name}: (.*?)(?=^\s*$|^\w+: |^\w+:$|\Z)", text, re.M | re.S)
    return " ".join(found[1].split()).rstrip(".") if found else ""


def formula(text: str) -> str:
    """Return the indented equation at the top of a docstring, or nothing."""
    opening = text.partition("\nArgs:")[0]
    lines = [line.strip() for line in opening.splitlines() if line.startswith("    ")]
    equation = re.sub(r" {2,}", "  ", " ".join(lines)).replace("`", "")
    return f"`{equation}`" if equation else ""


def defaults(member: Callable[..., object], text: str) -> str:
    """Return every default of a member, and what its docstring says of where it comes from."""
    found = []
    for name, parameter in inspect.signature(member).parameters.items():
        if parameter.default is parameter.empty:
            continue
        words = re.search(rf"^    {name}: (.*?)(?=^    \w+: |^\s*$)", text, re.M | re.S)
        sentences = re.split(r"(?<=[.;]) (?=[A-Z])", " ".join(words[1].split()) if words else "")
        origin = " ".join(sentence for sentence in sentences if "efault" in sentence)
        found.append(f"`{name}={parameter.default!r}`{': ' if origin else ''}{origin}".rstrip("."))
    return "; ".join(found)


def row(*cells: str) -> str:
    """Return a line of a table; what would end a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def described(member: Callable[..., object]) -> tuple[str, str, str, str, str]:
    """Return a member's name, first sentence, formula, cost and source."""
    text = inspect.getdoc(member) or ""
    first = " ".join(text.partition("\n\n")[0].split()).rstrip(".")
    name = f"`{member.__name__}`"
    return name, first, formula(text), paragraph(text, "Cost"), paragraph(text, "Source")


def table(members: list[Callable[..., object]]) -> str:
    """Return a table of the members, a row for each."""
    heads = (
        "member",
        "what it does",
        "formula",
        "gradients",
        "memory",
        "defaults",
        "source",
        "notes",
    )
    lines = [row(*heads), "|" + "---|" * len(heads)]
    for member in members:
        name, first, equation, cost, source = described(member)
        gradients, _, memory = cost.partition(", ")
        origin = defaults(member, inspect.getdoc(member) or "")
        note = NOTES.get(member.__name__, "")
        cells = name, first, equation, re.sub(r" gradients?\b", "", gradients), memory, origin
        lines.append(row(*cells, source, note))
    return "\n".join(lines) + "\n"


def wrappers(members: list[Callable[..., object]]) -> str:
    """Return a table of what takes a rule."""
    heads = "member", "what it does", "formula", "cost", "source", "notes"
    lines = [row(*heads), "|" + "---|" * len(heads)]
    lines += [row(*described(member), NOTES.get(member.__name__, "")) for member in members]
    return "\n".join(lines) + "\n"


def members(module: ModuleType) -> list[Callable[..., object]]:
    """Return the functions of a module's public names, in the order in which the file has them."""
    found = [inspect.unwrap(getattr(module, name)) for name in module.__all__]
    functions = [thing for thing in found if inspect.isfunction(thing)]
    return sorted(functions, key=lambda function: function.__code__.co_firstlineno)


def page() -> str:
    """Return the page."""
    tables = [f"\n## {title}\n\n{table(members(module))}" for title, module in SECTIONS.items()]
    return HEAD + "".join(tables) + WHEN + wrappers(members(schedule)) + LAST


def brief() -> str:
    """Return the table of the README: what each member descends along, and at what price."""
    lines = [row("member", "what it does", "gradients"), "|---|---|---|"]
    for module in (*SECTIONS.values(), schedule):
        for member in members(module):
            name, first, _, cost, _ = described(member)
            gradients = re.split(r" gradients?\b", cost)[0]
            lines.append(row(name, first, gradients))
    return "\n".join(lines) + "\n"


def readme(text: str) -> str:
    """Return the README with the table between its marks."""
    before, mark, rest = text.partition("<!-- members -->\n")
    _, end, after = rest.partition("<!-- /members -->")
    return before + mark + brief() + end + after


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
    front = Path(__file__).parents[1] / "README.md"
    front.write_text(readme(front.read_text(encoding="utf-8")), encoding="utf-8")
