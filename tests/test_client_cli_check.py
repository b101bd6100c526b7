"""``fgcif-client check``: everything that is wrong is said at once, each with what to do."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fgcif_flwr.cli.client.connection import examine_connection
from fgcif_flwr.config.enterprise import SuperNodeSection, load_enterprise
from fgcif_flwr.enterprise.operations.readiness import Check
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import ConfigurationError
from tests.agent_rig import AGENT, STRANGER, SUPERNODE, needs_users, place, run_as
from tests.client_rig import Client, customers, enterprise, write_csv, write_roster

SECRET = "Erika-Mustermann"


@pytest.fixture
def client(tmp_path: Path) -> Client:
    made = enterprise(tmp_path)
    made.edit('# supernode_user = ""', 'supernode_user = "nobody"')
    return made


def checks(client: Client, *arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Return exit code, and the checks by name."""
    result = client.run("check", "--format", "json", *arguments)
    by_name: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(result.stdout)["result"]["checks"]:
        by_name.setdefault(one["name"], []).append(one)
    return result.exit_code, by_name


def faults(found: dict[str, list[dict[str, str]]]) -> set[str]:
    return {one["name"] for many in found.values() for one in many if one["state"] == "fault"}


def test_what_is_ready_exits_with_0(client: Client):
    code, found = checks(client)
    assert (code, faults(found)) == (0, set())
    assert found["connection"][0]["state"] == "not checked"
    assert "ready" in client.run("check").stdout
    assert not (client.state / "ledger.db").exists()


def test_all_faults_are_found_at_once(client: Client):
    (client.state / "identity.pem").chmod(0o644)
    client.state.chmod(0o755)
    write_roster(client, own="22" * 32)
    (client.directory / "policy.toml").write_text("minimum_cohort = 1\n")
    (client.directory / "coordinator.pub").unlink()
    (client.state / "ledger.db").write_text("no ledger")
    client.edit('supernode_user = "nobody"', 'supernode_user = "nobody-there"')
    (client.directory / "customers.csv").unlink()
    code, found = checks(client)
    assert code == 4
    expected = {"identity key", "state directory", "roster", "policy", "coordinator's key"}
    expected |= {"ledger", "users"}
    assert expected <= faults(found)
    assert any(name.startswith("data") for name in faults(found))
    assert found["schema"][0]["state"] == "ok"
    text = client.run("check").stdout
    assert "not ready: " in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "chmod 0600" in text


def test_a_schema_that_is_wrong_leaves_the_data_unchecked(client: Client):
    (client.directory / "shop.toml").write_text("name = 'shop'\n")
    code, found = checks(client)
    assert code == 4
    assert faults(found) == {"schema"}
    assert found["data"][0]["state"] == "not checked"


def test_agent_and_supernode_of_one_user_are_a_fault(client: Client):
    client.edit('# user = ""', 'user = "nobody"')
    code, found = checks(client)
    assert code == 4
    assert "would both be nobody" in found["users"][0]["found"]
    client.edit('user = "nobody"', 'user = ""')
    client.edit('supernode_user = "nobody"', 'supernode_user = "root"')
    assert faults(checks(client)[1]) == {"users"}


def test_a_roster_of_too_few_is_a_fault(client: Client):
    roster = json.loads((client.directory / "roster.json").read_text())
    (client.directory / "roster.json").write_text(json.dumps({"acme": roster["acme"]}))
    assert faults(checks(client)[1]) == {"roster"}


def test_faults_of_the_data_name_column_and_count_and_no_value(client: Client):
    rows = customers(60)
    for row in rows[:3]:
        row["age"] = SECRET
    rows[5]["churn"] = SECRET
    write_csv(client.directory / "customers.csv", rows)
    result = client.run("check", "--format", "json")
    assert result.exit_code == 4
    text = result.stdout + result.stderr + client.run("check").stdout
    assert SECRET not in text
    found = checks(client)[1]
    of_data = [many for name, many in found.items() if name.startswith("data")]
    said = " ".join(one["found"] for many in of_data for one in many)
    assert "age" in said
    assert "3" in said
    assert "churn" in said


def test_features_of_the_policy_that_no_column_has_are_warned_of(client: Client):
    (client.directory / "policy.toml").write_text('features = ["age", "agee"]\n')
    code, found = checks(client)
    assert code == 0
    assert found["policy"][0]["state"] == "warning"
    assert "features names agee, which" in found["policy"][0]["found"]


# users and rights


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to other users wants root")


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A directory through which other users can pass."""
    with place() as found:
        yield found


def of(user: int, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user, user)


@pytest.fixture
def house(shared_place: Path) -> Client:
    """An enterprise of root's whose state is its agent's, a user of its own."""
    as_root()
    made = enterprise(shared_place)
    for path in made.directory.iterdir():
        path.chmod(0o700 if path.is_dir() else 0o644)
    made.edit('# user = ""', f'user = "{AGENT}"')
    made.edit('# supernode_user = ""', f'supernode_user = "{SUPERNODE}"')
    (made.directory / "sockets").mkdir(mode=0o711, exist_ok=True)
    of(AGENT, made.directory / "sockets", made.state, *made.state.iterdir())
    return made


def test_root_checks_for_the_agents_user(house: Client):
    code, found = checks(house)
    assert (code, faults(found)) == (0, set())
    assert found["readable files"][0]["state"] == "ok"


def test_a_state_of_another_user_than_the_agents_is_a_fault(house: Client):
    of(0, house.state / "identity.pem")
    found = checks(house)[1]
    assert faults(found) == {"state directory", "identity key"}
    assert found["identity key"][0]["advice"] == f"chown -R {AGENT}: {house.state}"
    of(AGENT, house.state / "identity.pem")
    of(STRANGER, house.state)
    found = checks(house)[1]
    assert faults(found) == {"state directory"}
    assert f"belongs to user {STRANGER}" in found["state directory"][0]["found"]


def test_data_that_the_agents_user_cannot_read_is_a_fault(house: Client):
    table = house.directory / "customers.csv"
    table.chmod(0o600)
    found = checks(house)[1]
    assert faults(found) == {"readable files"}
    assert str(table) in found["readable files"][0]["found"]
    table.chmod(0o644)
    house.directory.chmod(0o700)
    assert "readable files" in faults(checks(house)[1])


def test_sockets_that_the_agents_user_cannot_make_are_a_fault(house: Client):
    sockets = house.directory / "sockets"
    sockets.rmdir()
    found = checks(house)[1]
    assert faults(found) == {"sockets"}
    wanted = f"install -d -o {AGENT} -m 0711 {sockets}"
    assert found["sockets"][0]["advice"] == wanted
    sockets.mkdir()
    assert faults(checks(house)[1]) == {"sockets"}
    of(STRANGER, sockets)
    assert "another user" in checks(house)[1]["sockets"][0]["found"]


def test_an_agents_user_that_is_not_there_is_a_fault(client: Client):
    client.edit('# user = ""', 'user = "nobody-there"')
    code, found = checks(client)
    assert code == 4
    assert "no user nobody-there" in found["users"][0]["found"]


@pytest.mark.parametrize(
    "name", ["policy.toml", "roster.json", "coordinator.pub", "fgcif-client.toml"]
)
def test_what_decides_what_leaves_is_not_for_others_to_change(client: Client, name: str):
    path = client.directory / name
    path.chmod(0o664)
    found = checks(client)[1]
    assert faults(found) == {"own files"}
    assert str(path) in found["own files"][0]["found"]
    config = load_enterprise(client.directory / "fgcif-client.toml")
    with pytest.raises(ConfigurationError, match="can be changed by others"):
        Site.open(config)
    path.chmod(0o644)
    Site.open(config)
    client.directory.chmod(0o777)
    with pytest.raises(ConfigurationError, match="can be changed by others"):
        Site.open(config)
    client.directory.chmod(0o1777)
    Site.open(config)
    if os.geteuid() == 0:
        of(STRANGER, path)
        with pytest.raises(ConfigurationError, match=f"of user {STRANGER}"):
            Site.open(config)


def test_whoever_may_not_read_the_state_is_told_so_in_lines(house: Client):
    (house.state / "ledger.db").touch()
    code = (
        "import os, sys\n"
        "from fgcif_flwr.cli.client.main import main\n"
        "sys.argv = ['fgcif-client', 'check', '--format', 'json', "
        f"'--config', {str(house.config)!r}]\n"
        "main()\n"
    )
    needs_users()
    process = run_as(STRANGER, ["-c", code])
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 4, stderr
    found = {one["name"]: one for one in json.loads(stdout)["result"]["checks"]}
    for name in ("state directory", "identity key", "ledger"):
        assert found[name]["state"] == "fault"
        assert "Permission denied" in found[name]["found"]
    assert found["sockets"]["state"] == "not checked"


# the connection


def certificate(days: int, path: Path) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    crt, pem = path / "ca.crt", path / "key.pem"
    crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return crt, pem


@contextmanager
def superlink(crt: Path, pem: Path, ahead: timedelta | None) -> Iterator[str]:
    """A TLS server that tells its time, or speaks no HTTP/1 at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, pem)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def answer() -> None:
        for _ in range(2):
            try:
                bare, _ = listener.accept()
                bare.settimeout(10)
                with bare, context.wrap_socket(bare, server_side=True) as peer:
                    if peer.recv(4096) and ahead is not None:
                        date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
                        peer.sendall(
                            f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\n"
                            "Content-Length: 0\r\n\r\n".encode()
                        )
            except OSError:
                continue

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a second connection
        thread.join(5)
        listener.close()


def examined(section: SuperNodeSection) -> dict[str, Check]:
    return {one.name: one for one in examine_connection(section)}


@pytest.mark.parametrize(
    ("ahead", "state"),
    [
        (timedelta(0), "ok"),
        (timedelta(minutes=5), "warning"),
        (timedelta(hours=-3), "fault"),
        (None, "not checked"),
    ],
)
def test_the_superlink_is_reached_and_its_clock_compared(
    tmp_path: Path, ahead: timedelta | None, state: str
):
    crt, pem = certificate(100, tmp_path)
    with superlink(crt, pem, ahead) as address:
        found = examined(SuperNodeSection(address=address, root_certificates=crt))
    assert (found["connection"].state, found["certificate"].state) == ("ok", "ok")
    assert found["clock"].state == state


@pytest.mark.parametrize(
    ("setting", "state", "word"),
    [
        ('address = "127.0.0.1:1"', "fault", "root_certificates"),
        ('address = "127.0.0.1:1"\nroot_certificates = "absent.crt"', "fault", "no file"),
        ('address = "127.0.0.1:1"\ninsecure = true', "ok", "there"),
    ],
)
def test_a_supernode_that_could_not_start_is_a_fault(
    client: Client, setting: str, state: str, word: str
):
    client.edit("[supernode]", f"[supernode]\n{setting}")
    one = checks(client, "--no-connection")[1]["SuperNode"][0]
    assert one["state"] == state
    assert word in one["found"]


def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path):
    crt, pem = certificate(5, tmp_path)
    with superlink(crt, pem, timedelta(0)) as address:
        found = examined(SuperNodeSection(address=address, root_certificates=crt))
    assert found["certificate"].state == "warning"


def test_a_superlink_that_another_vouches_for_is_a_fault(tmp_path: Path):
    crt, pem = certificate(100, tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = certificate(100, tmp_path / "other")
    with superlink(crt, pem, None) as address:
        found = examined(SuperNodeSection(address=address, root_certificates=other))
    assert found["connection"].state == "fault"
    assert "certificate" in found["connection"].found


def test_what_does_not_answer_is_a_fault(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    crt, _ = certificate(100, tmp_path)
    for section in (
        SuperNodeSection(address=f"127.0.0.1:{port}", root_certificates=crt),
        SuperNodeSection(address=f"127.0.0.1:{port}", insecure=True),
        SuperNodeSection(address="127.0.0.1"),
        SuperNodeSection(address="127.0.0.1:1", root_certificates=tmp_path / "absent"),
    ):
        assert examined(section)["connection"].state == "fault"
