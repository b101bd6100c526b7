"""``fgcif plan``: what the secure sum and the privacy of a run would be, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fgcif_flwr.cli.output import Format, emit, reporting_errors
from fgcif_flwr.cli.plan_privacy import privacy_cautions, privacy_of, show_privacy
from fgcif_flwr.cli.run_options import (
    AssignmentsOption,
    ConfigOption,
    DataOption,
    EnterprisesOption,
    PartitionOption,
    SchemaOption,
    asked_of,
    resolve,
)
from fgcif_flwr.config import RunConfig
from fgcif_flwr.data.encoding import FeatureLayout, feature_layout
from fgcif_flwr.data.schema import load_schema
from fgcif_flwr.federation.private_plan import plan_of as privacy_plan_of
from fgcif_flwr.federation.private_plan import with_noise
from fgcif_flwr.federation.private_releases import trained_layout, trains_locally
from fgcif_flwr.federation.releases import TRAIN, layout_of
from fgcif_flwr.federation.session_settings import SessionSettings
from fgcif_flwr.models.network import parameter_count
from fgcif_flwr.privacy.outcomes import with_outcome
from fgcif_flwr.secagg.encoding import VectorLayout
from fgcif_flwr.secagg.epoch import COMMITMENT_BYTES, OPENED_BYTES, SEALED_BYTES
from fgcif_flwr.secagg.failure_probability import (
    least_threshold_ignoring_cuts,
    smallest_neighbourhood,
)
from fgcif_flwr.secagg.keys import KEY_BYTES, SIGNATURE_BYTES
from fgcif_flwr.secagg.masking import CHECK_WORDS
from fgcif_flwr.secagg.parameters import COMPLETE_UP_TO, SecureSumParameters

FEW_HONEST = 5
"""Below this a plan warns of how few a sum may cover."""
TABLE_SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def plan(
    data: DataOption = None,
    schema: SchemaOption = None,
    partition: PartitionOption = None,
    enterprises: EnterprisesOption = None,
    config: ConfigOption = None,
    assignments: AssignmentsOption = None,
    parameters: Annotated[
        int | None,
        typer.Option(
            min=1, help="Parameters of the model (default: the schema's).", show_default=False
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of training.", show_default=False)
    ] = None,
    rows: Annotated[
        int,
        typer.Option(min=1, help="Rows that an enterprise is expected to have (for errors)."),
    ] = 1000,
    table: Annotated[
        bool, typer.Option("--table", help="Only the parameters by number of enterprises.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Show the secure sum and the privacy that a run would have: graph, thresholds, noise, bytes.

    Nothing runs and nothing is written. Options are those of simulate.

    Example:
    fgcif plan --enterprises 1000 --set secagg.tolerated_colluders=200
    """
    with reporting_errors("plan", form):
        if table:
            by_size = [_row(size) for size in TABLE_SIZES]
            emit(form, "plan", {"rows": by_size}, lambda _: typer.echo(_markdown(by_size)))
            return
        flags = {
            "data.table": data,
            "data.schema": schema,
            "data.partition": partition,
            "run.enterprises": enterprises,
            "run.rounds": rounds,
        }
        asked = asked_of(config, assignments, flags)
        # A directory is named only so that none is made: nothing is written to it.
        resolved, warnings = resolve(asked, Path())
        result = plan_of(resolved, parameters, rows)
        if result["withstands"] == "semi-honest coordinator":
            warnings.append(
                "a coordinator that lies could open the vector of a single enterprise; set "
                "secagg.consistency to true, or secagg.neighbours to all others"
            )
        if result["graph"] == "complete" and result["holders"] > COMPLETE_UP_TO:
            warnings.append(
                "a value that was set forces the complete graph: every enterprise exchanges shares "
                "and masks with all others"
            )
        warnings += privacy_cautions(result["privacy"])
        if result["honest_in_any_sum"] < FEW_HONEST:
            warnings.append(
                f"a sum may cover as few as {result['honest_in_any_sum']} honest enterprises: each "
                "is hidden among so few"
            )
        emit(form, "plan", result, lambda console: _show(result, warnings, console), warnings)


def plan_of(
    config: RunConfig, model_parameters: int | None = None, rows: int = 1000
) -> dict[str, Any]:
    """Return the result as documented for ``--format json``.

    Raises
    ------
    CohortError
        If the parameters break a rule of the secure sum.
    PrivacyError
        If the guarantee cannot be given as asked.
    """
    chosen = SessionSettings.of(config).parameters(config.run.enterprises)
    features = feature_layout(load_schema(config.data.schema_name))
    d = model_parameters or parameter_count(features, config.model)
    layout = _train_layout(config, features, d, chosen)
    bits = layout.form(chosen.holders).bits
    return {
        "holders": chosen.holders,
        "graph": "complete" if chosen.complete else "k-regular",
        "neighbours": chosen.neighbours,
        "threshold": chosen.threshold,
        "shares": chosen.shares,
        "tolerated_dropouts": chosen.tolerated_dropouts,
        "tolerated_colluders": chosen.tolerated_colluders,
        "smallest_cohort": chosen.smallest_cohort,
        "consistency": chosen.consistency,
        "consents": chosen.consents if chosen.consistency else 0,
        "consents_checked": chosen.consents_checked if chosen.consistency else 0,
        "withstands": chosen.withstands,
        "honest_in_any_sum": chosen.honest_in_any_sum,
        "honest_with_consistency": chosen.honest_if(consistency=True),
        "honest_without_consistency": chosen.honest_if(consistency=False),
        "exchanges_per_round": 3 if chosen.consistency else 2,
        "parameters": d,
        "bits_per_word": bits,
        "bytes_up": _bytes_up(chosen, layout.size, bits),
        "log2_insecure": chosen.log2_insecure,
        "log2_unopened": chosen.log2_unopened,
        "privacy": privacy_of(config, features, d, chosen, rows),
    }


def _train_layout(
    config: RunConfig, features: FeatureLayout, parameters: int, chosen: SecureSumParameters
) -> VectorLayout:
    if config.privacy.unit == "none":
        return with_outcome(layout_of(TRAIN, config, features, parameters))
    if trains_locally(config):
        return trained_layout(config, parameters)
    config = with_noise(config, features, parameters, chosen)
    plan = privacy_plan_of(config, features, parameters, chosen.honest_in_any_sum)
    mechanism = plan.release(TRAIN).mechanism
    return mechanism.sum.layout(chosen.holders, mechanism.sharers(plan.honest))


def _bytes_up(chosen: SecureSumParameters, numbers: int, bits: int) -> int:
    """Estimate what an enterprise sends in a steady round, without the envelope of a transport."""
    # Round key, commitment to the seed, signature; then for each receiver, itself not sealed for.
    advertised = 2 * KEY_BYTES + SIGNATURE_BYTES
    advertised += chosen.neighbours * SEALED_BYTES + chosen.shares * 2 * COMMITMENT_BYTES
    consent = SIGNATURE_BYTES if chosen.consistency else 0
    return (
        -(-(numbers + CHECK_WORDS) * bits // 8)
        + advertised
        + consent
        + chosen.shares * OPENED_BYTES
    )


def _show(result: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    complete = result["graph"] == "complete"
    near = "all others" if complete else f"{result['neighbours']} neighbours on a drawn ring"
    lines = {
        "enterprises (n)": result["holders"],
        "graph": f"{result['graph']}: masks and shares with {near}",
        "shares that open a secret (t)": f"{result['threshold']} of {result['shares']}",
        "tolerated dropouts (d)": result["tolerated_dropouts"],
        "tolerated colluders (c)": result["tolerated_colluders"],
        "fewest survivors": result["smallest_cohort"],
        "consistency exchange": (
            f"on: {result['consents']} signatures are shown, {result['consents_checked']} checked"
            if result["consistency"]
            else "off"
        ),
        "honest in any sum (h_min)": f"{result['honest_in_any_sum']} against a "
        f"{result['withstands']}",
        "  with the exchange": f"{result['honest_with_consistency']} against a lying coordinator",
        "  without": f"{result['honest_without_consistency']} against a lying coordinator",
        "security fails, per draw": _probability(result["log2_insecure"]),
        "opening fails, per slot": _probability(result["log2_unopened"]),
        "exchanges per round": result["exchanges_per_round"],
        "parameters of the model": f"{result['parameters']:,}",
        "bits per word (b)": result["bits_per_word"],
        "up, per enterprise and round": f"about {result['bytes_up'] / 1000:.1f} kB",
    }
    for name, value in lines.items():
        console.print(f"{name:<34}{value}", soft_wrap=True, highlight=False)
    if result["privacy"] is not None:
        show_privacy(result["privacy"], console)
    for warning in warnings:
        console.print(f"Warning: {warning}")


def _probability(log2: float) -> str:
    return "never" if log2 == -math.inf else f"with probability at most 2^{log2:.1f}"


def _row(n: int) -> dict[str, Any]:
    """Return one line of the table: c a tenth, d a twentieth, at least 1."""
    c, d = n // 10, max(1, n // 20)
    lying = SecureSumParameters.choose(n, None, d, c)
    semi_honest = SecureSumParameters.choose(n, None, d, c, consistency=False)
    other = smallest_neighbourhood(n, d, c, least_threshold_ignoring_cuts)
    return {
        "holders": n,
        "tolerated_colluders": c,
        "tolerated_dropouts": d,
        "lying": {"neighbours": lying.neighbours, "threshold": lying.threshold},
        "semi_honest": {
            "neighbours": semi_honest.neighbours,
            "threshold": semi_honest.threshold,
        },
        "honest_with_consistency": lying.honest_if(consistency=True),
        "honest_without_consistency": lying.honest_if(consistency=False),
        "neighbours_ignoring_cuts": n - 1 if lying.complete or other is None else other[0],
    }


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["n", "c", "d", "k", "t", "h_min", "h_min without consistency"]
    header += ["k semi-honest", "t semi-honest", "k ignoring cuts"]
    cells = [header, ["---:"] * len(header)]
    for row in rows:
        values = (
            row["holders"],
            row["tolerated_colluders"],
            row["tolerated_dropouts"],
            row["lying"]["neighbours"],
            row["lying"]["threshold"],
            row["honest_with_consistency"],
            row["honest_without_consistency"],
            row["semi_honest"]["neighbours"],
            row["semi_honest"]["threshold"],
            row["neighbours_ignoring_cuts"],
        )
        cells.append([str(value) for value in values])
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    )
