"""A canary audit of noisy sums as they are released: `python -m benchmarks.canary`.

For each noise multiplier and number of releases, the epsilon that the accountant charges, the
lower bounds that an attacker's hits and false alarms prove (`fgcif_flwr.audit.canary`: by the rates
alone, and if the noise is normal), and the rates. Sums of 256 numbers hold 128 canaries at once.
With a fault on purpose (`--fault`), the bounds are to exceed what is charged.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from fgcif_flwr.audit.canary import audit_release
from fgcif_flwr.errors import PrivacyError
from fgcif_flwr.privacy import noisy_sum
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum

Row = dict[str, float | int]

SIZE = 256
CANARIES = 128
MULTIPLIERS = (1.0, 2.0, 5.0)
RELEASES = (1, 4)


def measure(multiplier: float, releases: int, asked: argparse.Namespace) -> Row:
    """Audit one multiplier and number of releases."""
    mechanism = NoisySum((Block("canaries", SIZE),), CANARIES, multiplier)
    started = time.perf_counter()
    result = audit_release(
        mechanism,
        asked.honest,
        asked.delta,
        asked.repetitions,
        releases=releases,
        confidence=asked.confidence,
        canaries=CANARIES,
    )
    return {
        "multiplier": multiplier,
        "releases": releases,
        "delta": asked.delta,
        "charged": result.charged,
        "lower_bound": result.lower_bound,
        "gaussian_bound": result.gaussian_bound,
        "tpr": result.tpr,
        "fpr": result.fpr,
        "repetitions": result.repetitions,
        "honest": result.honest,
        "confidence": result.confidence,
        "seconds": time.perf_counter() - started,
    }


def halve_the_noise() -> None:
    """From now on noise of half the standard deviation is drawn."""
    right = noisy_sum.skellam

    def wrong(size: int, variance: float, generator: np.random.Generator) -> noisy_sum.Integers:
        return right(size, variance / 4, generator)

    noisy_sum.skellam = wrong


def main() -> None:
    """Print a row for each multiplier and number of releases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--multiplier", type=float, action="append", help="default: 1, 2 and 5; may be repeated"
    )
    parser.add_argument(
        "--releases", type=int, action="append", help="default: 1 and 4; may be repeated"
    )
    parser.add_argument("--delta", type=float, default=1e-5, help="default: 1e-5")
    parser.add_argument("--honest", type=int, default=2, help="enterprises (default: 2)")
    parser.add_argument(
        "--repetitions", type=int, default=200_000, help="in each world (default: 200,000)"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="default: 0.95")
    parser.add_argument("--fault", choices=["none", "half-noise"], default="none")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    if asked.fault == "half-noise":
        halve_the_noise()
    rows = []
    if asked.format == "text":
        print(
            f"{'multiplier':>10} {'releases':>8} {'delta':>7} {'charged':>8} {'bound':>7} "
            f"{'if normal':>9} {'tpr':>8} {'fpr':>8} {'seconds':>8}"
        )
    for multiplier in asked.multiplier or MULTIPLIERS:
        for releases in asked.releases or RELEASES:
            try:
                rows.append(measure(multiplier, releases, asked))
            except (ValueError, PrivacyError) as error:
                parser.error(str(error))
            if asked.format == "text":
                print(line(rows[-1]), flush=True)
    if asked.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        print(
            f"Bounds at {asked.confidence:.0%} each, on {rows[-1]['repetitions']:,} repetitions "
            f"in each world, the threshold chosen on as many others; {asked.honest} enterprises."
        )


def line(row: Row) -> str:
    """One audit as a line of text."""
    return (
        f"{row['multiplier']:>10g} {row['releases']:>8} {row['delta']:>7g} {row['charged']:>8.3f} "
        f"{row['lower_bound']:>7.3f} {row['gaussian_bound']:>9.3f} {row['tpr']:>8.5f} "
        f"{row['fpr']:>8.5f} {row['seconds']:>8.1f}"
    )


if __name__ == "__main__":
    main()
