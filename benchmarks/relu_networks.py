"""How long do a million full-batch steps of one ReLU network on twelve points take?

    python benchmarks/relu_networks.py [--steps 20000] [--networks 1,25] [--repeats 3]

Scaled to a million; no step is skipped. `--steps 1000000 --networks 1 --repeats 1`, which runs them
through, printed on 2026-11-27 on 2 cores (AMD EPYC):

    method            networks   steps       s per 10^6 steps
    gradient descent         1   1000000       18 min     18 median
    SAM                      1   1000000       43 min     43 median
"""

import argparse
import statistics
import time

from flatminima.theory import relu_1d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--networks", default="1,25", help="how many are trained side by side")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("method            networks   steps       s per 10^6 steps")
    for rho, word in ((0.0, "gradient descent"), (0.3, "SAM")):
        for count in map(int, options.networks.split(",")):
            steps, times = options.steps // (5 if count > 1 else 1), []
            for _ in range(options.repeats):
                began = time.perf_counter()
                relu_1d(range(count), rho=rho, steps=steps, enough=0.0)
                times.append(1e6 * (time.perf_counter() - began) / steps)
            print(f"{word:16}  {count:8}   {steps:<9} {min(times):6.0f} min ", end="")
            print(f"{statistics.median(times):6.0f} median", flush=True)


if __name__ == "__main__":
    main()
