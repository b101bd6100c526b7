"""An enterprise as ``fgcif-client`` finds it: files of its own, in a directory of a test."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from typer.testing import CliRunner

from fgcif_flwr.cli.client.main import app
from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.federation.roster import load_identity
from fgcif_flwr.models.artifact import save_model
from fgcif_flwr.models.network import MultiTaskNetwork, build_network
from fgcif_flwr.secagg.keys import identity_from_seed

SCHEMA = """\
name = "shop"
id_column = "customer"

[[features]]
name = "age"
kind = "numeric"
lower = 18
upper = 100
unit = "years"

[[features]]
name = "spend"
kind = "numeric"
lower = 0
upper = 1000
unit = "EUR"

[[features]]
name = "plan"
kind = "categorical"
vocabulary = ["basic", "plus", "pro"]

[[features]]
name = "member"
kind = "boolean"

[[targets]]
name = "churn"
kind = "binary"
positive = "yes"
negative = "no"

[[targets]]
name = "next"
kind = "categorical"
classes = ["food", "toys", "books", "tools"]

[[targets]]
name = "value"
kind = "numeric"
lower = 0
upper = 500
unit = "EUR"
"""
COLUMNS = ("customer", "age", "spend", "plan", "member", "churn", "next", "value")
RUN = "ab" * 32


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    """Run ``fgcif-client`` in this process."""
    return CliRunner().invoke(app, list(arguments), env=environment)


def told(result: Result) -> Any:
    """Return the result of a command that succeeded with ``--format json``."""
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["status"] == "ok"
    return printed["result"]


def error_line(result: Result) -> str:
    """Return the one line of an error."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stdout
    return lines[0]


def customers(rows: int, seed: int = 1) -> list[dict[str, object]]:
    """Customers whose churn follows their spend and plan."""
    random = np.random.default_rng(seed)
    made: list[dict[str, object]] = []
    for index in range(rows):
        spend = float(random.uniform(0, 1000))
        plan = str(random.choice(["basic", "plus", "pro"]))
        leaves = random.random() < (0.7 if spend < 400 else 0.2)
        made.append(
            {
                "customer": f"K-{seed}-{index:05d}",
                "age": int(random.integers(18, 90)),
                "spend": round(spend, 2),
                "plan": plan,
                "member": "yes" if random.random() < 0.5 else "no",
                "churn": "yes" if leaves else "no",
                "next": str(random.choice(["food", "toys", "books", "tools"])),
                "value": round(spend / 2, 2),
            }
        )
    return made


def write_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",") -> Path:
    """Write rows as CSV."""
    names = list(rows[0])
    lines = [delimiter.join(names)]
    lines += [delimiter.join(str(row[name]) for name in names) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass
class Client:
    """An enterprise's files, and its command."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "fgcif-client.toml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def schema(self) -> Schema:
        return load_schema(str(self.directory / "shop.toml"))

    def run(self, *arguments: str) -> Result:
        return run(*arguments, "--config", str(self.config))

    def told(self, *arguments: str) -> Any:
        return told(self.run(*arguments, "--format", "json"))

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new, 1), encoding="utf-8")

    def keep_model(self, name: str = RUN, seed: int = 0) -> MultiTaskNetwork:
        """Put a model where the agent keeps those of runs."""
        network = build_network(feature_layout(self.schema), ModelSection(hidden=(8,)), seed)
        models = self.state / "models"
        models.mkdir(mode=0o700, exist_ok=True)
        save_model(models / f"{name}.safetensors", network, self.schema, {"run": name})
        return network


def enterprise(directory: Path, rows: int = 300, **flags: str) -> Client:
    """Make an enterprise by ``init``, with the roster and the coordinator's key of others."""
    client = Client(directory)
    (directory / "shop.toml").write_text(SCHEMA, encoding="utf-8")
    table = directory / "customers.csv"
    if not table.exists():
        write_csv(table, customers(rows))
    given = {"name": "acme", "schema": str(directory / "shop.toml"), "table": str(table)} | flags
    options = [part for key, value in given.items() for part in (f"--{key}", value)]
    coordinator = identity_from_seed(bytes(range(32))).public.hex()
    made = client.run("init", *options, "--coordinator", coordinator)
    assert made.exit_code == 0, made.stderr
    write_roster(client)
    return client


def write_roster(client: Client, own: str | None = None) -> None:
    """Write the roster of acme and three others; ``own`` stands for acme's key if given."""
    public = load_identity(client.state / "identity.pem").public.hex()
    others = {name: identity_from_seed(os.urandom(32)).public.hex() for name in ("b", "c", "d")}
    roster = {"acme": own or public, **others}
    (client.directory / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
