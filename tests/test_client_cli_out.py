"""``fgcif-client ... --out FILE`` costs nobody a file: sources, configuration and state stay."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fgcif_flwr.cli.client.out_file import OutFile
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.errors import ConfigurationError
from tests.client_rig import Client, enterprise, error_line


@pytest.fixture
def client(tmp_path: Path) -> Client:
    made = enterprise(tmp_path)
    made.keep_model()
    return made


@pytest.mark.parametrize("command", [["features"], ["score"], ["synthesize", "--rows", "9"]])
def test_a_file_that_is_there_stays_unless_it_is_to_go(
    client: Client, tmp_path: Path, command: list[str]
):
    steps = ["--steps", "2"] if command[0] == "synthesize" else []
    out = tmp_path / "out.csv"
    out.write_text("kept")
    refused = client.run(*command, *steps, "--out", str(out))
    assert refused.exit_code == 21
    assert "--overwrite" in error_line(refused)
    assert out.read_text() == "kept"
    other = tmp_path / "other.csv"
    other.write_text("of a link")
    out.unlink()
    out.symlink_to(other)
    client.told(*command, *steps, "--overwrite", "--out", str(out))
    assert not out.is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert other.read_text() == "of a link"
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    "named",
    ["customers.csv", "link.csv", "hard.csv", "state/x.csv", "state/../customers.csv", "x.txt"],
)
def test_no_source_or_state_is_ever_overwritten(client: Client, named: str):
    source = client.directory / "customers.csv"
    before = source.read_bytes()
    (client.directory / "link.csv").symlink_to(source)
    (client.directory / "hard.csv").hardlink_to(source)
    refused = client.run("features", "--overwrite", "--out", str(client.directory / named))
    assert refused.exit_code == 10, error_line(refused)
    assert source.read_bytes() == before
    assert not (client.state / "x.csv").exists()


@pytest.mark.parametrize("what", ["policy", "roster", "coordinator", "schema"])
def test_no_file_of_the_configuration_is_ever_overwritten(client: Client, what: str):
    named = client.directory / f"{what}.csv"
    config = load_enterprise(client.config)
    if what == "policy":
        changed = {"enterprise": config.enterprise.model_copy(update={"policy": named})}
    else:
        part = {"schema_file": str(named)} if what == "schema" else {what: named}
        changed = {"consortium": config.consortium.model_copy(update=part)}
    with pytest.raises(ConfigurationError, match="name another file"):
        OutFile.of(named, config.model_copy(update=changed), client.config, True)


@pytest.mark.parametrize(
    ("pattern", "taken"), [("logs/*.csv", True), ("**/*.csv", True), ("*.csv", False)]
)
def test_a_file_that_a_pattern_would_take_for_a_source_is_refused(
    client: Client, pattern: str, taken: bool
):
    config = load_enterprise(client.config)
    assert config.data.table is not None
    source = config.data.table.model_copy(update={"source": str(client.directory / pattern)})
    data = config.data.model_copy(update={"table": source})
    of_pattern = config.model_copy(update={"data": data})
    out = client.directory / "logs" / "scores.csv"
    if taken:
        with pytest.raises(ConfigurationError, match="taken for"):
            OutFile.of(out, of_pattern, client.config, False)
    else:
        assert OutFile.of(out, of_pattern, client.config, False).path == out
