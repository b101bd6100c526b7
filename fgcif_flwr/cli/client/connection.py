"""Whether the consortium's SuperLink can be reached as configured, and the clock agrees."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from fgcif_flwr.config.enterprise import EnterpriseConfig, SuperNodeSection
from fgcif_flwr.enterprise.agent.supervision import supernode_arguments
from fgcif_flwr.enterprise.operations.readiness import Check, State
from fgcif_flwr.errors import FgcifError

_SECONDS = 5.0
_SOON = 14  # days
_SKEW = 30.0  # seconds between two clocks that are not worth a word
_FAULTY_SKEW = 3600.0


def examine_supernode(config: EnterpriseConfig) -> Check:
    """Look whether a SuperNode could be started: program, key and certificates."""
    if not config.supernode.address:
        return Check("SuperNode", "not checked", "supernode.address is not set")
    try:
        supernode_arguments(config)
    except FgcifError as error:
        return Check("SuperNode", "fault", str(error))
    return Check("SuperNode", "ok", "its program, key and certificates are there")


def examine_connection(section: SuperNodeSection) -> Iterator[Check]:
    """Connect once or twice, and yield what was found of address, certificate and clock."""
    if not section.address:
        yield Check("connection", "not checked", "supernode.address is not set")
        return
    host, _, port = section.address.rpartition(":")
    if not host or not port.isdecimal():
        yield Check("connection", "fault", "supernode.address wants HOST:PORT", "correct it")
        return
    where = host.strip("[]"), int(port)
    if section.insecure:
        yield _plain(where)
        return
    try:
        context = ssl.create_default_context(cafile=section.root_certificates)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it holds no certificate"
        yield Check(
            "connection",
            "fault",
            f"{section.root_certificates} cannot be read: {reason}",
            "take the consortium's root certificate (PEM)",
        )
        return
    yield from _encrypted(where, context)


def _plain(where: tuple[str, int]) -> Check:
    try:
        socket.create_connection(where, _SECONDS).close()
    except OSError as error:
        return _unreachable(where, error)
    return Check(
        "connection",
        "warning",
        f"{where[0]}:{where[1]} answers, without TLS",
        "supernode.insecure is for trials on one machine",
    )


def _unreachable(where: tuple[str, int], error: OSError) -> Check:
    reason = error.strerror or ("no answer in time" if isinstance(error, TimeoutError) else "")
    return Check(
        "connection",
        "fault",
        f"{where[0]}:{where[1]} cannot be reached: {reason or type(error).__name__}",
        "look at the address, the firewall, and whether the SuperLink runs",
    )


def _encrypted(where: tuple[str, int], context: ssl.SSLContext) -> Iterator[Check]:
    try:
        with (
            socket.create_connection(where, _SECONDS) as bare,
            context.wrap_socket(bare, server_hostname=where[0]) as secured,
        ):
            certificate = secured.getpeercert() or {}
            version = secured.version()
    except ssl.SSLCertVerificationError as error:
        yield Check(
            "connection",
            "fault",
            f"the certificate of {where[0]} is not accepted: {error.verify_message}",
            "take the consortium's root certificate, and see that the clock is right",
        )
        return
    except OSError as error:
        yield _unreachable(where, error)
        return
    yield Check("connection", "ok", f"{where[0]}:{where[1]}, {version}")
    yield _expiry(str(certificate.get("notAfter", "")))
    yield _clock(where, context)


def _expiry(not_after: str) -> Check:
    if not not_after:
        return Check("certificate", "not checked", "the SuperLink's certificate names no end")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)
    days = (ends - datetime.now(UTC)).days
    found = f"the SuperLink's is valid until {ends:%Y-%m-%d}"
    if days < _SOON:
        return Check("certificate", "warning", f"{found}, {days} days", "tell the coordinator")
    return Check("certificate", "ok", found)


def _clock(where: tuple[str, int], context: ssl.SSLContext) -> Check:
    """Compare with the time that the server states, if it is one that does."""
    unknown = Check("clock", "not checked", "the SuperLink does not tell its time")
    connection = http.client.HTTPSConnection(*where, timeout=_SECONDS, context=context)
    try:
        connection.request("HEAD", "/")
        told = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException):  # a SuperLink without a proxy speaks HTTP/2 alone
        return unknown
    finally:
        connection.close()
    if told is None:
        return unknown
    try:
        theirs = parsedate_to_datetime(told)
    except ValueError:
        return unknown
    skew = abs((datetime.now(UTC) - theirs).total_seconds())
    found = f"{skew:.0f} s from the SuperLink's"
    if skew <= _SKEW:
        return Check("clock", "ok", found)
    state: State = "fault" if skew > _FAULTY_SKEW else "warning"
    return Check("clock", state, found, "let the clock follow a time server")
