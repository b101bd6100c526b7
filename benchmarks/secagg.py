"""The secure sum beside Flower's SecAgg+: `python -m benchmarks.secagg`.

For each case (n enterprises, d parameters, a share of them lost at the upload), what one secure
sum costs an enterprise and the coordinator, here and with Flower's own code on the same vectors,
both in one process. Flower's side of a case that takes minutes is left out without --all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks import flower_secagg
from benchmarks.own_secagg import measure as measure_own
from fgcif_flwr.errors import FgcifError

Row = dict[str, float | int | None]

ENTERPRISES = (10, 50)
PARAMETERS = (20_000, 100_000, 1_000_000)
LOST = (0.0, 0.1, 0.3)

FIGURES = ("client_ms", "server_s", "bytes_up_per_param", "bytes_down_per_param")
FLOWERS_LARGEST = (50, 50 * 50 * 100_000)
"""Most clients, and most masked words n * n * d, of Flower's side without --all."""

CHUNK_BYTES = 1 << 17  # stays in a core's second-level cache


def vectors_of(n: int, d: int) -> list[npt.NDArray[np.float32]]:
    """n updates of d parameters within (-1, 1), the same at every call."""
    generator = np.random.default_rng([n, d])
    return [generator.random(d, dtype=np.float32) * 2 - 1 for _ in range(n)]


def is_short_for_flower(n: int, d: int) -> bool:
    """Tell whether Flower's side of a case takes less than about a minute."""
    most_clients, most_words = FLOWERS_LARGEST
    return n <= most_clients and n * n * d <= most_words


def plain_ms(masks: int, d: int, word_bits: int) -> float:
    """Milliseconds to expand ``masks`` AES-256-CTR keys to d words and add them: the floor.

    Median of five, after one that is not counted; words are of 32 bits where ``word_bits`` fit.
    """
    total = np.zeros(d, dtype=np.uint32 if word_bits <= 32 else np.uint64)
    zeros = memoryview(bytes(CHUNK_BYTES))
    buffer = bytearray(CHUNK_BYTES + 15)  # update_into wants a block's slack
    step = CHUNK_BYTES // total.itemsize
    stream = np.frombuffer(buffer, dtype=total.dtype, count=step)
    keys = [os.urandom(32) for _ in range(masks)]
    times = []
    for _ in range(6):
        started = time.perf_counter()
        for key in keys:
            encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
            for start in range(0, d, step):
                part = total[start : start + step]
                encryptor.update_into(zeros[: part.nbytes], buffer)
                np.add(part, stream[: len(part)], out=part)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def measure(
    case: tuple[int, int, float],
    vectors: Sequence[npt.NDArray[np.float32]],
    asked: argparse.Namespace,
) -> Row:
    """Run one case on both sides and return one row of figures, None where a side was left out."""
    n, d, lost = case
    dropped = round(lost * n)

    def own(memory: bool) -> flower_secagg.Measurement:
        measurement: flower_secagg.Measurement = measure_own(
            vectors,
            dropped,
            value_bits=asked.value_bits,
            neighbours=asked.neighbours,
            memory=memory,
        )
        return measurement

    def flower(memory: bool) -> flower_secagg.Measurement:
        return flower_secagg.measure(vectors, dropped, memory=memory)

    with_own = asked.only in (None, "own")
    with_flower = asked.only in (None, "flower") and (asked.all or is_short_for_flower(n, d))
    row: Row = {"n": n, "d": d, "lost": lost}
    row |= figures("", own if with_own else None, asked.memory)
    row |= figures("flower_", flower if with_flower else None, asked.memory)
    if asked.plain:
        masks = row["masks"] or n
        floor = plain_ms(int(masks), d, asked.value_bits + math.ceil(math.log2(n)))
        row |= {"plain_ms": floor, "client_over_plain": ratio(row["client_ms"], floor)}
    return row


def figures(
    prefix: str, side: Callable[[bool], flower_secagg.Measurement] | None, memory: bool
) -> Row:
    """One side's figures. Memory takes a run of its own, since watching it lengthens times."""
    names = (*FIGURES, "masks")
    measurement = side(False) if side else None
    row: Row = {prefix + name: getattr(measurement, name, None) for name in names}
    if memory:
        watched = side(True) if side else None
        for name in ("server_peak_mb", "server_shares_mb"):
            row[prefix + name] = getattr(watched, name, None)
    return row


def ratio(over: float | None, under: float | None) -> float | None:
    """Their quotient, None where one of them is absent."""
    return over / under if over is not None and under else None


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    many = "; may be repeated"
    parser.add_argument(
        "--n", type=int, action="append", help="enterprises (default: 10 and 50)" + many
    )
    parser.add_argument(
        "--d",
        type=int,
        action="append",
        help="parameters of the model (default: 20,000, 100,000 and 1,000,000)" + many,
    )
    parser.add_argument(
        "--lost",
        type=float,
        action="append",
        help="share lost, 0 to below 1 (default: 0, 0.1 and 0.3)" + many,
    )
    parser.add_argument("--value-bits", type=int, default=22, help="bits of a value, here")
    parser.add_argument(
        "--neighbours",
        type=int,
        help="neighbours of an enterprise, here (default: all up to 100 enterprises, else k)",
    )
    parser.add_argument("--only", choices=["own", "flower"], help="leave the other side out")
    parser.add_argument("--all", action="store_true", help="Flower's side of large cases too")
    parser.add_argument(
        "--plain", action="store_true", help="time the expansion and addition of masks alone too"
    )
    parser.add_argument(
        "--memory", action="store_true", help="the server's peak too, in a second run of each case"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    for lost in asked.lost or ():
        if not 0 <= lost < 1:
            parser.error(f"--lost {lost}: give a share of the enterprises, from 0 to below 1")
    rows = []
    if asked.format == "text":
        print(header(asked), flush=True)
    for n, d in itertools.product(asked.n or ENTERPRISES, asked.d or PARAMETERS):
        vectors = vectors_of(n, d)
        for lost in asked.lost or LOST:
            try:
                rows.append(measure((n, d, lost), vectors, asked))
            except (FgcifError, ValueError) as error:
                parser.error(f"n = {n}, d = {d}, lost = {lost}: {error}")
            if asked.format == "text":
                print(line(rows[-1]), flush=True)
    if asked.format == "json":
        print(json.dumps(rows, indent=2))
    else:
        print(footer(rows, asked))


def header(asked: argparse.Namespace) -> str:
    """Names of the columns: ours, Flower's, and how many times ours goes into Flower's."""
    names = ["client ms", "server s", "B up/param", "B down/param"]
    if asked.memory:
        names += ["server MB", "shares MB"]
    columns = "".join(f"  {name:>12} {'Flower':>9} {'ratio':>7}" for name in names)
    if asked.plain:
        columns += f"  {'plain ms':>9} {'client/plain':>12}"
    return f"{'n':>5} {'d':>8} {'lost':>5}{columns}"


def line(row: Row) -> str:
    """One case as a line of text."""
    text = f"{row['n']:>5} {row['d']:>8} {row['lost']:>5.0%}"
    names = [*FIGURES]
    if "server_peak_mb" in row:
        names += ["server_peak_mb", "server_shares_mb"]
    for name in names:
        own, flower = row[name], row["flower_" + name]
        text += f"  {shown(own):>12} {shown(flower):>9} {shown(ratio(flower, own)):>7}"
    if "plain_ms" in row:
        text += f"  {shown(row['plain_ms']):>9} {shown(row['client_over_plain']):>12}"
    return text


def shown(figure: float | None) -> str:
    """Three significant digits, or a dash."""
    if figure is None:
        return "-"
    if figure >= 1000:
        return f"{figure:.0f}"
    return f"{figure:#.3g}".rstrip(".")


def footer(rows: Sequence[Row], asked: argparse.Namespace) -> str:
    """What the columns mean, and how to get those that were left out."""
    text = (
        "Means over the enterprises that survive, all exchanges of one sum; the server's time is "
        "that outside clients. Neither counts the model itself. ratio: Flower's figure over ours."
    )
    if asked.plain:
        text += (
            "\nplain: AES-256-CTR expansion and addition of as many masks of as many words, "
            "nothing else."
        )
    if asked.only != "own" and any(row["flower_client_ms"] is None for row in rows):
        most_clients, _ = FLOWERS_LARGEST
        text += (
            f"\n-: Flower's side takes minutes and gigabytes there (more than {most_clients} "
            "clients, or more words than 50 * 50 * 100,000); add --all to run it."
        )
    return text


if __name__ == "__main__":
    main()
