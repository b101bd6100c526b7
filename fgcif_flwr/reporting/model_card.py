"""The model card: what a model is, what it was trained on, what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgcif_flwr.data.schema import Schema
from fgcif_flwr.models.numeric_counts import DECILE, DECILES


def model_card(record: Mapping[str, Any], schema: Schema) -> str:
    """Return the card as Markdown, from a run's record (see run.json) and its schema."""
    rows, sums = record["federation_rows"], record["secure_sum"]
    lines = [
        f"# Model card: {schema.name}",
        "",
        f"{schema.description}".strip() or "A joint CRM model.",
        "",
        "## What it predicts",
        "",
        *(f"- **{target.name}** ({target.kind})" for target in schema.targets),
        "",
        "## How it was trained",
        "",
        f"{_algorithm(record)} over {sums['holders']} enterprises, {record['rounds']} rounds; "
        f"{_rows(rows, record['privacy']['unit'])}, no row leaving its enterprise. Every update, "
        "loss and count was read as a sum over the cohort only: at least "
        f"{sums['honest_in_any_sum']} honest enterprises are in any sum that "
        f"{sums['tolerated_colluders']} colluding ones and a lying coordinator could open "
        f"(threshold {sums['threshold']}, at most {sums['tolerated_dropouts']} lost).",
        *_generator(record),
        "",
        *_segments(record),
        "## Privacy",
        "",
        str(record["privacy"]["statement"]),
        "",
        "## Figures on the federation's test rows",
        "",
        *_figures(record["metrics"]["test"]),
        "",
        _source(
            record["privacy"]["unit"], any(target.kind == "numeric" for target in schema.targets)
        ),
        "",
        "## Inputs",
        "",
        *(f"- `{feature.name}` ({feature.kind})" for feature in schema.features),
        "",
        "Never used: "
        + (", ".join(f"`{name}`" for name in schema.forbidden) or "none named")
        + ".",
        "",
        "## Provenance",
        "",
        f"- model sha256: `{record['model_sha256']}`",
        f"- schema sha256: `{record['schema']['hash']}`",
        f"- seed: {record['seed']}",
        f"- versions: {', '.join(f'{k} {v}' for k, v in record['versions'].items())}",
        "",
    ]
    return "\n".join(lines)


def _generator(record: Mapping[str, Any]) -> list[str]:
    """Say what part synthetic rows had in the training, and what they were learnt from."""
    generator = record["generator"]
    if generator["kind"] == "none":
        return []
    if generator["kind"] == "ctgan":
        source = "a CTGAN of each enterprise's own, which never left it"
    else:
        source = (
            f"a shared generator ({generator['kind']}) that was learnt by secure sums in "
            f"{generator['exchanges']} exchanges, under the same statement of privacy"
        )
    use = {
        "augment": "Synthetic rows were beside the customers' own in each round",
        "warm-start": "The first model was trained on synthetic rows",
    }[generator["use"]]
    return ["", f"{use}: of {source}."]


def _segments(record: Mapping[str, Any]) -> list[str]:
    """Describe the segments that a learned target's classes are."""
    learned = record.get("segments")
    if learned is None:
        return []
    features = [
        f"`{one['name']}`" + (" (less is more)" * one["lower_is_better"])
        for one in learned["features"]
    ]
    by = [one["name"] for one in learned["features"]]
    lines = [
        f"## Segments ({learned['target']})",
        "",
        "Learned by k-means over secure sums before the training, from "
        f"{', '.join(features)}; the most valuable first, named by rule. A customer is in the "
        "segment of the nearest centre. Centres and profile are released under the statement of "
        "privacy below. Typical values are means on the schema's scale.",
        "",
        f"| class | name | share | {' | '.join(f'typical {name}' for name in by)} |",
        "|---|---|---|" + "---|" * len(by),
    ]
    for one in learned["segments"]:
        typical = [one["means"][name] for name in by]
        shown = ["-" if value is None else f"{value:.4g}" for value in typical]
        lines.append(
            f"| {one['word']} | {one['name']} | {one['share']:.1%} | {' | '.join(shown)} |"
        )
    return [*lines, ""]


def _figures(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| target | metric | value |", "|---|---|---|"]
    for head, values in metrics.items():
        lines += [
            f"| {head} | {name} | {value:.4f} |"
            for name, value in values.items()
            if name not in ("rows", "positives") and not name.startswith(DECILE)
        ]
    for head, values in metrics.items():
        if f"{DECILE}1_true" in values:
            lines += ["", *_deciles(head, values)]
    return lines


def _deciles(head: str, values: Mapping[str, float]) -> list[str]:
    """Say how far a numeric target's predictions are from what came, by decile of them."""
    return [
        f"Calibration of {head}, by decile of the prediction (shares of the target's range, on "
        "its log scale where it has one):",
        "",
        "| decile | mean predicted | mean true |",
        "|---|---|---|",
        *(
            f"| {decile} | {values[f'{DECILE}{decile}_predicted']:.4f} "
            f"| {values[f'{DECILE}{decile}_true']:.4f} |"
            for decile in range(1, DECILES + 1)
        ),
    ]


def _algorithm(record: Mapping[str, Any]) -> str:
    fedsgd = record["config"]["training.algorithm"] == "fedsgd"
    return "Federated gradient steps" if fedsgd else "Federated averaging"


def _rows(rows: Mapping[str, float], unit: str) -> str:
    if unit == "none":
        return (
            f"{rows['train']} training, {rows['validation']} validation and {rows['test']} test "
            "rows in all"
        )
    if unit == "enterprise":
        return "the number of rows is not released"
    return f"about {rows['train']:.0f} training rows in all (a noisy count)"


def _source(unit: str, numeric: bool) -> str:
    bins = {False: ("200 score bins", "64 and 32"), True: ("20 score bins", "16 and 8")}
    scores, ranks = bins[unit != "none"]
    of_ranks = f", Spearman from {ranks} bins of prediction and target" if numeric else ""
    if unit == "none":
        return f"The figures come from summed counts; AUC from {scores}{of_ranks}."
    what = {"customer": "counts", "enterprise": "means of each enterprise's shares"}[unit]
    return f"The figures come from noisy sums of {what}, charged like all else; {scores}{of_ranks}."
