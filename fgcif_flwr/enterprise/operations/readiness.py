"""Whether an enterprise can take part: each thing that must be right, looked at on its own.

Nothing raises here: what is wrong is an item of the list, with what to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.enterprise.agent.operation import Answer
from fgcif_flwr.enterprise.operations.form import OperationRequest
from fgcif_flwr.enterprise.operations.rights import Check, State, examine_rights, user_name
from fgcif_flwr.enterprise.operations.rules import changed_rules, unknown_features
from fgcif_flwr.enterprise.site import Site, load_public_key
from fgcif_flwr.errors import FgcifError
from fgcif_flwr.federation.roster import load_identity, load_roster
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.policy import Policy, load_policy

__all__ = ["Check", "CheckRequest", "State", "check", "examine", "user_name"]

_LITTLE_SPACE = 1_000_000_000  # bytes
_NO_SPACE = 100_000_000
_FEWEST = 3  # enterprises of any federation


class CheckRequest(OperationRequest):
    """Asks whether the enterprise is ready."""


def check(site: Site, request: BaseModel) -> Answer:
    """Return the checks of what the agent itself can see."""
    return Answer({"checks": [asdict(one) for one in examine(site.config)]})


def examine(config: EnterpriseConfig) -> Iterator[Check]:
    """Look at keys, rights, policy, roster, ledger, disk and data."""
    yield from examine_rights(config)
    yield from _agreed(config, config.directory / "identity.pem")
    yield _tried("policy", lambda: _policy(config))
    yield _tried("coordinator's key", lambda: _coordinator(config))
    yield _tried("ledger", lambda: _ledger(config))
    yield _tried("disk", lambda: _space(config.directory))
    yield from _schema_and_data(config)


def _tried(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except FgcifError as error:
        return Check(name, "fault", str(error))
    except OSError as error:
        return _not_to_be_used(name, error)


def _not_to_be_used(name: str, error: OSError) -> Check:
    where = f"{error.filename}: " if error.filename else ""
    advice = "run this as the agent's user or root" if isinstance(error, PermissionError) else ""
    return Check(name, "fault", f"{where}{error.strerror}", advice)


def _agreed(config: EnterpriseConfig, identity: Path) -> Iterator[Check]:
    name = config.enterprise.name
    try:
        public = load_identity(identity).public
        roster = dict(load_roster(config.consortium.roster))
    except FgcifError as error:
        yield Check("roster", "fault", str(error))
        return
    if roster.get(name) != public:
        found = "another key" if name in roster else "no key"
        yield Check(
            "roster",
            "fault",
            f"{config.consortium.roster} has {found} for {name}",
            f'give the consortium this line: "{name}": "{public.hex()}"',
        )
    elif len(roster) < _FEWEST:
        yield Check(
            "roster",
            "fault",
            f"{len(roster)} enterprises; a secure sum wants at least {_FEWEST}",
            "wait for the others, and take the consortium's newest roster",
        )
    else:
        yield Check("roster", "ok", f"{len(roster)} enterprises, {name} with its own key")


def _policy(config: EnterpriseConfig) -> Check:
    policy = load_policy(config.enterprise.policy)
    changed = changed_rules(policy)
    found = f"own rules: {', '.join(changed)}" if changed else "all rules have the default"
    strange = _strange_features(config, policy)
    if strange:
        return Check(
            "policy",
            "warning",
            f"{found}; features names {', '.join(strange)}, which the schema does not have",
            "write features as the schema's columns are called (fgcif-client schema show)",
        )
    if "none" in policy.units:
        return Check(
            "policy",
            "warning",
            f"{found}; units allow none: exact sums, which no privacy budget covers",
            'take "none" out of units unless that is meant',
        )
    return Check("policy", "ok", found)


def _strange_features(config: EnterpriseConfig, policy: Policy) -> list[str]:
    try:
        schema = load_schema(config.consortium.schema_file)
    except (FgcifError, OSError):  # a check of its own says so
        return []
    return unknown_features(policy, schema)


def _coordinator(config: EnterpriseConfig) -> Check:
    public = load_public_key(config.consortium.coordinator, "the coordinator")
    return Check("coordinator's key", "ok", f"{public.hex()[:16]}...: compare it out of band")


def _ledger(config: EnterpriseConfig) -> Check:
    path = config.directory / "ledger.db"
    if not path.exists():
        return Check("ledger", "ok", "none yet: the agent makes it when it starts")
    with SqliteLedger(path, config.enterprise.name) as ledger:
        return Check("ledger", "ok", f"intact, {ledger.head.length} entries")


def _space(directory: Path) -> Check:
    existing = next((one for one in (directory, *directory.parents) if one.exists()), directory)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check("disk", "fault", f"{existing}: {error.strerror}")
    state: State = "ok" if free >= _LITTLE_SPACE else "warning"
    state = "fault" if free < _NO_SPACE else state
    advice = "" if state == "ok" else "make room: ledger and journal must be writable"
    return Check("disk", state, f"{free / 1e9:.1f} GB free", advice)


def _schema_and_data(config: EnterpriseConfig) -> Iterator[Check]:
    try:
        schema = load_schema(config.consortium.schema_file)
    except FgcifError as error:
        yield Check("schema", "fault", str(error))
    except OSError as error:
        yield _not_to_be_used("schema", error)
    else:
        yield Check("schema", "ok", f"{schema.name} {schema.hash[:16]}: compare it out of band")
        yield from _data(config, schema)
        return
    yield Check("data", "not checked", "there is no schema to check it against")


def _data(config: EnterpriseConfig, schema: Schema) -> Iterator[Check]:
    from fgcif_flwr.data.crm.customers import check_data

    try:
        report = check_data(config.data, schema, scratch=config.directory)
    except FgcifError as error:
        yield Check("data", "fault", str(error))
        return
    except OSError as error:
        yield _not_to_be_used("data", error)
        return
    states: dict[str, State] = {"fault": "fault", "warning": "warning", "note": "ok"}
    rows = {component.name: component.rows for component in report.components}
    if report.ready:
        yield Check("data", "ok", f"{report.customers} customers")
    for component, found in report.all_findings():
        if found.severity == "note":
            continue
        bare = found.sentence(rows.get(component, report.customers))
        bare = bare.removesuffix(f"; {found.advice}") if found.advice else bare
        name = f"data.{component}" if component else "data"
        yield Check(name, states[found.severity], bare, found.advice)
