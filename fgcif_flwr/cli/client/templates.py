"""The texts of the files that ``fgcif-client init`` writes, commented for whoever edits them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

POLICY = """\
# What this enterprise lets out, whatever the coordinator asks. A rule that is commented out has
# the value shown. What breaks a rule is refused before anything is computed.

# Privacy units under which releases are allowed: "customer", "enterprise", "none".
# "none" is exact sums, hidden by secure aggregation alone, which no privacy budget covers.
# units = ["customer", "enterprise"]

# Most that one run may cost a customer.
# epsilon_per_run = 1.0
# delta_per_run = 1e-5

# Most that all runs together may ever cost a customer; the ledger refuses what would pass it.
# epsilon_total = 10.0
# delta_total = 1e-4

# Fewest enterprises that may be asked for a sum, and fewest honest ones that it must cover.
# minimum_cohort = 3
# minimum_honest = 2

# Fewest shares that open a secret; 0 leaves it to the protocol's own rule.
# minimum_threshold = 0

# Fewest enterprises in league with the coordinator that a run must withstand; left out, a tenth
# of the roster, at least 1.
# minimum_colluders = 1

# Tasks and columns of the schema that are allowed; left out, all of them.
# tasks = ["statistics", "train", "evaluate"]
# features = []

# Most numbers in one release.
# maximum_release_size = 10000000

# Most steps of local training for one release.
# maximum_local_steps = 100000
"""


@dataclass(frozen=True)
class Answers:
    """What ``init`` was told.

    ``sources`` maps ``table`` or a component's name to a file, or to a database's URL and the
    name of a table in it.
    """

    name: str
    schema: str
    roster: str
    coordinator: str
    sources: Mapping[str, tuple[str, str]]
    superlink: str = ""
    root_certificates: str = ""
    supernode_key: str = ""
    user: str = ""
    supernode_user: str = ""


def configuration(answers: Answers) -> str:
    """Return the text of ``fgcif-client.toml``."""
    return (
        _HEAD.format(
            name=_quoted(answers.name),
            schema=_quoted(answers.schema),
            roster=_quoted(answers.roster),
            coordinator=_quoted(answers.coordinator),
        )
        + "".join(_source(part, *where) for part, where in answers.sources.items())
        + _AGENT.format(
            user=_setting("user", answers.user),
            supernode_user=_setting("supernode_user", answers.supernode_user),
        )
        + _SUPERNODE.format(
            address=_setting("address", answers.superlink, "superlink.example.org:9092"),
            certificates=_setting("root_certificates", answers.root_certificates, "ca.crt"),
            key=_setting("key", answers.supernode_key, "supernode-key"),
        )
    )


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's; only DEL is legal bare in the one and not in the other.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _setting(key: str, value: str, example: str = "") -> str:
    return f"{key} = {_quoted(value)}" if value else f"# {key} = {_quoted(example)}"


def _source(part: str, source: str, table: str) -> str:
    database = "://" in source
    lines = [f"\n[data.{part}]", f"source = {_quoted(source)}"]
    if database:
        lines += [
            f"table = {_quoted(table)}",
            '# password_env = "CRM_PASSWORD"   # or password_file = "crm-password"',
        ]
    else:
        lines += [
            '# delimiter = ";"       # of a CSV; left out, taken from the header',
            '# decimal = ","         # decimal sign of numbers written as text',
            '# thousands = "."',
            '# encoding = "latin-1"',
        ]
    (name, own), (words, code, word), number = _EXAMPLES[part]
    lines += [
        '# time_format = "%d.%m.%Y"',
        '# timezone = "Europe/Berlin"',
        '# missing = ["n/a"]     # own words for a missing value',
        f"# [data.{part}.columns]   # the project's name of a column = its own name",
        f"# {name} = {_quoted(own)}",
        f"# [data.{part}.words.{words}]   # its own code = the word that is meant",
        f"# {_quoted(code)} = {_quoted(word)}",
        f"# [data.{part}.units]   # what its numbers are multiplied by",
        f"# {number} = 0.01",
    ]
    return "\n".join(lines) + "\n"


# A column and its own name; a column, a code in it and its meaning; a column of numbers.
_EXAMPLES = {
    "table": (
        ("tenure", "Vertragsdauer"),
        ("contract", "M", "Month-to-month"),
        "monthly_charges",
    ),
    "customers": (("customer", "Kundennummer"), ("churned", "J", "yes"), "monthly_charges"),
    "transactions": (("time", "booked_at"), ("channel", "1", "web"), "amount"),
    "events": (("time", "logged_at"), ("kind", "mail", "campaign"), "dwell_seconds"),
    "interactions": (("time", "opened_at"), ("channel", "T", "phone"), "satisfaction"),
}

_HEAD = """\
# One enterprise of a federation: who it is, where its data lies, how its agent is guarded.
# Paths are relative to this file. What is commented out has the value shown, or is an example.

[enterprise]
name = {name}
directory = "state"        # key, ledger, journal, logs, models: for the agent's user alone
policy = "policy.toml"     # what may leave, whatever the coordinator asks

[consortium]               # as agreed out of band
schema = {schema}
roster = {roster}   # JSON: every enterprise's name and public key
coordinator = {coordinator}   # the coordinator's public key

[data]
# duplicates = "refuse"    # or "last": of rows of one customer the last one counts
# complete_until = 2026-10-01   # everything before this day is in the components
"""
_AGENT = """
[agent]
# shared = "sockets/shared/agent.sock"   # for the SuperNode: releases, nothing else
# admin = "sockets/admin/agent.sock"     # for this enterprise's own people
{user}   # of the agent; empty is whoever starts it
{supernode_user}   # of the SuperNode; must be another
# maximum_request_mb = 256
# release_seconds = 1.0    # a reply that took computing leaves after this, or 2, 4, ... times this
# runs_per_day = 10
# epsilon_per_day = 2.0
# approval = false         # true: a person approves each run by fgcif-client runs approve
"""
_SUPERNODE = """
[supernode]
{address}
{certificates}
{key}
# insecure = false         # true: without TLS, for trials on one machine
# longest_pause = 300.0    # seconds between restarts, at most
"""
