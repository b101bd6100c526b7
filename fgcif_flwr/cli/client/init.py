"""``fgcif-client init``: an enterprise's configuration, policy and identity key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from fgcif_flwr.cli.client.options import CONFIG_FILE, ConfigOption, FormatOption, reporting
from fgcif_flwr.cli.client.templates import POLICY, Answers, configuration
from fgcif_flwr.cli.output import Format, emit
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.data.crm.database import database_url, split_table
from fgcif_flwr.data.schema import builtin_names, load_schema
from fgcif_flwr.enterprise.agent.sockets import SHARED_MODES
from fgcif_flwr.enterprise.agent.users import group_id, user_id
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.federation.roster import load_identity

_IDENTITY = "identity.pem"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


def _source_option(what: str) -> Any:
    return typer.Option(
        metavar="FILE_OR_URL", show_default=False, help=f"Instead of --table: {what}."
    )


def init_command(
    name: Annotated[str, typer.Option(help="The enterprise's name in the consortium.")],
    schema: Annotated[
        str,
        typer.Option(metavar="NAME_OR_FILE", help="The consortium's schema: built-in or TOML."),
    ],
    table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_URL",
            help="One ready row a customer: CSV, Parquet, or DATABASE_URL#TABLE.",
            show_default=False,
        ),
    ] = None,
    customers: Annotated[str | None, _source_option("master data")] = None,
    transactions: Annotated[str | None, _source_option("lines of purchases")] = None,
    events: Annotated[str | None, _source_option("behaviour logs")] = None,
    interactions: Annotated[str | None, _source_option("contacts with service")] = None,
    roster: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Everybody's keys (default: roster.json beside the configuration).",
            show_default=False,
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_KEY",
            help="The coordinator's public key: a file, or its 64 hexadecimal digits (default: "
            "coordinator.pub beside the configuration).",
            show_default=False,
        ),
    ] = None,
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The consortium's SuperLink.")
    ] = "",
    root_certificates: Annotated[
        str, typer.Option(metavar="FILE", help="Certificates that the SuperLink's goes back to.")
    ] = "",
    supernode_key: Annotated[
        str, typer.Option(metavar="FILE", help="The SuperNode's private key, of OpenSSH's form.")
    ] = "",
    user: Annotated[str, typer.Option(help="User of the agent.")] = "",
    supernode_user: Annotated[str, typer.Option(help="User of the SuperNode, another one.")] = "",
    config: ConfigOption = CONFIG_FILE,
    form: FormatOption = Format.TEXT,
) -> None:
    """Make an enterprise's configuration, policy and identity key.

    Nothing that is there is overwritten. The state directory and the policy lie
    beside the configuration. The printed line goes into the consortium's roster;
    the private key stays here. Where root runs this with --user, state, key and
    the sockets' directory are made that user's.

    Example:
    fgcif-client init --name acme --schema telco --table customers.csv
    """
    with reporting("init", form):
        sources = {
            part: _source(part, given)
            for part, given in (
                ("table", table),
                ("customers", customers),
                ("transactions", transactions),
                ("events", events),
                ("interactions", interactions),
            )
            if given is not None
        }
        _check(name, sources)
        key = coordinator if coordinator and _KEY.fullmatch(coordinator) else ""
        base = config.absolute().parent
        answers = Answers(
            name=name,
            schema=schema if schema in builtin_names() else _seen_from(base, schema),
            roster=_seen_from(base, roster or "") or "roster.json",
            coordinator=_seen_from(base, "" if key else coordinator or "") or "coordinator.pub",
            sources={
                part: (where if "://" in where else _seen_from(base, where), inside)
                for part, (where, inside) in sources.items()
            },
            superlink=superlink,
            root_certificates=_seen_from(base, root_certificates),
            supernode_key=_seen_from(base, supernode_key),
            user=user,
            supernode_user=supernode_user,
        )
        load_schema(schema)  # says what is wrong with it before anything is written
        result = _write(config, answers, key.lower())
        emit(form, "init", result, lambda console: _show(result, console))


def _check(name: str, sources: Mapping[str, tuple[str, str]]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            "--name wants 1 to 64 letters, digits, dots, underscores and hyphens, the first a "
            "letter or digit"
        )
    if ("table" in sources) == (len(sources) > ("table" in sources)):
        raise ConfigurationError(
            "say where the data lies: --table for one ready row a customer, or one or more of "
            "--customers, --transactions, --events, --interactions to build them from"
        )


def _source(part: str, given: str) -> tuple[str, str]:
    """Return file or URL, and of a database the table in it."""
    if "://" not in given:
        return given, ""
    url, table = split_table(given, f"--{part}")
    database_url(url, f"--{part}")
    return url, table


def _seen_from(base: Path, given: str) -> str:
    """Return a path as the configuration in ``base`` must write it."""
    if not given or Path(given).is_absolute() or base == Path.cwd():
        return given
    return str(Path(given).absolute())


def _write(config: Path, answers: Answers, coordinator_key: str) -> dict[str, Any]:
    base = config.absolute().parent
    if config.exists():
        raise ConfigurationError(
            f"{config} is there already and nothing was written; edit it, or name another by "
            "--config"
        )
    owner = _owner(answers.user)
    try:
        base.mkdir(parents=True, exist_ok=True)
        state = base / "state"
        written: list[str] = []
        kept: list[str] = []
        if not state.exists():
            state.mkdir(mode=0o700)
            os.chown(state, owner, group_id(owner))
        sockets = base / "sockets"
        if answers.user and os.geteuid() == 0 and not sockets.exists():
            # The agent's user could make none beside a configuration that is root's.
            sockets.mkdir(mode=0o700)
            sockets.chmod(SHARED_MODES[0])
            os.chown(sockets, owner, group_id(owner))
        for path, text, mode in (
            (state / _IDENTITY, _new_identity(), 0o600),
            (base / "policy.toml", POLICY, 0o644),
            (base / "coordinator.pub", f"{coordinator_key}\n", 0o644),
            (config.absolute(), configuration(answers), 0o644),
        ):
            if path.name == "coordinator.pub" and not coordinator_key:
                continue
            made = _create(path, text, mode)
            if made and path.parent == state:
                os.chown(path, owner, group_id(owner))
            (written if made else kept).append(str(path))
    except OSError as error:
        raise ConfigurationError(f"{base} cannot be written: {error.strerror}") from None
    public = load_identity(state / _IDENTITY).public.hex()
    load_enterprise(config)
    return {
        "name": answers.name,
        "public_key": public,
        "roster_line": f"{json.dumps(answers.name)}: {json.dumps(public)}",
        "config": str(config),
        "written": written,
        "kept": kept,
    }


def _owner(user: str) -> int:
    """Return whose the state will be: the agent's user's where root may give it, else one's own."""
    return user_id(user, "--user") if os.geteuid() == 0 else os.geteuid()


def _new_identity() -> str:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode()


def _create(path: Path, text: str, mode: int) -> bool:
    """Make a file unless it is there; return whether it was made."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _show(result: Mapping[str, Any], console: Console) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for path in result["written"]:
        line(f"written  {path}")
    for path in result["kept"]:
        line(f"kept     {path} (was there)")
    line("")
    line("For the consortium's roster:")
    line(result["roster_line"])
    line("")
    line("Next: edit the configuration and the policy, then fgcif-client check")
