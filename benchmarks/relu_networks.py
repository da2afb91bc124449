"""How long do a million full-batch steps of one ReLU network on twelve points take?

    python benchmarks/relu_networks.py [--steps 20000]

Timed over fewer steps and scaled to a million; no step is skipped. The least and the median of
three timings, in seconds, on 2 cores that others used as well:

    method            networks   s per 10^6 steps
    gradient descent         1       15 min     16 median
    gradient descent        25      402 min    536 median
    SAM                      1       33 min     58 median
    SAM                     25      990 min   1103 median
"""

import argparse
import time

from flatminima.theory import relu_1d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
    print("method            networks   s per 10^6 steps")
    for rho, word in ((0.0, "gradient descent"), (0.3, "SAM")):
        for count in (1, 25):
            times = []
            for _ in range(3):
                began = time.perf_counter()
                relu_1d(range(count), rho=rho, steps=steps // (5 if count > 1 else 1), enough=0.0)
                times.append(
                    1e6 * (time.perf_counter() - began) / (steps // (5 if count > 1 else 1))
                )
            print(f"{word:16}  {count:8}   {min(times):6.0f} min {sorted(times)[1]:6.0f} median")


if __name__ == "__main__":
    main()
