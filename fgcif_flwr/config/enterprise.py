"""The configuration of one enterprise: who it is, where its data lies, how its agent is guarded.

It is a TOML file of the enterprise's own. Paths in it are relative to the file's directory.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
)

from fgcif_flwr.config.crm import CrmData
from fgcif_flwr.config.validation import refusal
from fgcif_flwr.errors import ConfigurationError

EnterpriseName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class OwnSection(_Section):
    """Who this is. ``directory`` holds key, ledger, journal and logs; only the agent's user may
    read it."""

    name: EnterpriseName
    directory: Path = Path("state")
    policy: Path = Path("policy.toml")


class ConsortiumSection(_Section):
    """What was agreed out of band: the schema, everybody's keys, and the coordinator's.

    Attributes
    ----------
    schema_file
        A TOML file, or the name of a built-in schema (``schema`` in the file).
    roster
        JSON object of all enterprises' names and Ed25519 public keys.
    coordinator
        File with the coordinator's Ed25519 public key, 64 hexadecimal digits.
    """

    schema_file: str = Field(alias="schema")
    roster: Path = Path("roster.json")
    coordinator: Path = Path("coordinator.pub")


class AgentSection(_Section):
    """How the agent runs.

    Attributes
    ----------
    shared, admin
        Its two Unix sockets: SuperNode's and the enterprise's own. Each in a directory of its own.
    user, supernode_user
        Users of the agent and of the SuperNode, who must differ; empty is whoever starts it.
    maximum_request_mb
        Largest request that is read, in MB.
    release_seconds
        A reply that took computing on rows leaves after this, or twice, four times, ... this.
    runs_per_day, epsilon_per_day
        Most runs that are joined, and most epsilon that they may cost together, in 24 hours.
    approval
        Whether a person here must approve each run (``fgcif-client runs approve``).
    """

    shared: Path = Path("sockets/shared/agent.sock")
    admin: Path = Path("sockets/admin/agent.sock")
    user: str = ""
    supernode_user: str = ""
    maximum_request_mb: int = Field(256, ge=1, le=4096)
    release_seconds: float = Field(1.0, ge=0, le=600)
    runs_per_day: int = Field(10, ge=1, le=10_000)
    epsilon_per_day: float = Field(2.0, gt=0, le=1000)
    approval: bool = False


class SuperNodeSection(_Section):
    """How the SuperNode reaches the consortium. Without ``address`` there is none to start."""

    address: str = ""
    root_certificates: Path | None = None
    key: Path | None = None
    insecure: bool = False
    longest_pause: float = Field(300.0, ge=1, le=86_400, description="seconds between restarts")


class EnterpriseConfig(_Section):
    """Everything that an enterprise configures; see the sections."""

    enterprise: OwnSection
    consortium: ConsortiumSection
    data: CrmData
    agent: AgentSection = AgentSection()
    supernode: SuperNodeSection = SuperNodeSection()

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """What this was read from; None where it was not read."""
        return self._file

    @property
    def directory(self) -> Path:
        """Where the enterprise's state lies."""
        return self.enterprise.directory


def load_enterprise(path: Path) -> EnterpriseConfig:
    """Read an enterprise's configuration, its paths made absolute.

    Raises
    ------
    ConfigurationError
        If the file is absent or wrong, with the key and what is wanted; values are not shown.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no configuration {path}; make one with fgcif-client init"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    try:
        config = EnterpriseConfig.model_validate(tree)
    except ValidationError as error:
        raise refusal(path, EnterpriseConfig, error) from None
    absolute = _absolute(config, path.absolute().parent)
    absolute._file = path.absolute()
    return absolute


def _absolute(config: EnterpriseConfig, base: Path) -> EnterpriseConfig:
    """Return the configuration with every path of it absolute."""
    sections: dict[str, object] = {}
    for name in type(config).model_fields:
        section = getattr(config, name)
        paths = {
            key: base / value
            for key in type(section).model_fields
            if isinstance(value := getattr(section, key), Path)
        }
        sections[name] = section.model_copy(update=paths)
    data = {
        key: source.in_directory(base)
        for key in ("table", "customers", "transactions", "events", "interactions")
        if (source := getattr(config.data, key)) is not None
    }
    sections["data"] = config.data.model_copy(update=data)
    schema = config.consortium.schema_file
    if (base / schema).is_file():
        consortium = sections["consortium"]
        assert isinstance(consortium, ConsortiumSection)
        sections["consortium"] = consortium.model_copy(update={"schema_file": str(base / schema)})
    return config.model_copy(update=sections)
