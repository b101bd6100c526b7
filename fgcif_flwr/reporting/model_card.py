"""The model card: what a model is, what it was trained on, what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgcif_flwr.data.schema import Schema


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
        "## Privacy",
        "",
        str(record["privacy"]["statement"]),
        "",
        "## Figures on the federation's test rows",
        "",
        *_figures(record["metrics"]["test"]),
        "",
        _source(record["privacy"]["unit"]),
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


def _figures(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| target | metric | value |", "|---|---|---|"]
    for head, values in metrics.items():
        lines += [
            f"| {head} | {name} | {value:.4f} |"
            for name, value in values.items()
            if name not in ("rows", "positives")
        ]
    return lines


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


def _source(unit: str) -> str:
    if unit == "none":
        return "The figures come from summed counts; AUC from 200 score bins."
    what = {"customer": "counts", "enterprise": "means of each enterprise's shares"}[unit]
    return f"The figures come from noisy sums of {what}, charged like all else; 20 score bins."
