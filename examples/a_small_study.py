"""A study of your own: two methods, three seeds, records on disk, and the table.

python examples/a_small_study.py
"""

import tempfile
from pathlib import Path

from flatminima.cli import main

STUDY = '''"""Does SAM change the training loss of a tiny network?

Question: After five epochs on 200 digits, is the training loss of SAM higher?
Source: none; an example.
Expected: A little, since SAM descends a larger loss.
Time: a few seconds.
"""

from flatminima.data import Digits
from flatminima.models import MLP
from flatminima.study.run import Run
from flatminima.study.study import Method
from flatminima.train import SGD, Member, Training

METHODS = (Method(name="sgd", label="SGD", baseline=True), Method(name="sam", label="SAM"))
PRESETS = {"quick": 3}


def runs(seeds):
    yield [
        Run(
            method=method.name,
            label=method.label,
            training=Training(
                data=Digits(train=200, validation=100, test=200),
                model=MLP(hidden=(16,)),
                optimizer=SGD(lr=0.1),
                rule=Member(name="sam", rho=0.1) if method.name == "sam" else None,
                epochs=5,
                seed=seed,
            ),
        )
        for seed in range(seeds)
        for method in METHODS
    ]
'''

if __name__ == "__main__":  # workers are spawned processes, which read this file again
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.py")
        path.write_text(STUDY, encoding="utf-8")
        main(["run", str(path), "--workers", "1", "--folder", folder])
