"""How a database is named, and what must never be shown of it.

A URL may hold a password; a driver's message may quote the URL. So a URL with a password in it is
refused wherever somebody writes one, and passwords come from an environment variable or a file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fgcif_flwr.config.crm import tells_password
from fgcif_flwr.errors import ConfigurationError

_LOGGER: Final = "fgcif"


def split_table(given: str, key: str) -> tuple[str, str]:
    """Return URL and table of ``URL#TABLE``; ConfigurationError naming ``key`` if it is none."""
    url, _, table = given.rpartition("#")
    if not url or not table:
        raise ConfigurationError(f"{key}: a database wants DATABASE_URL#TABLE")
    return url, table


def database_url(address: str, key: str) -> sa.URL:
    """Return a database's URL.

    Raises
    ------
    ConfigurationError
        Naming ``key``, never the address: if it is no URL of SQLAlchemy's, or holds a password.
    """
    try:
        url = sa.make_url(address)
    except SQLAlchemyError:
        url = None
    if url is None:
        raise ConfigurationError(
            f"{key} is no database as SQLAlchemy writes it; for instance "
            "postgresql+psycopg://reader@host/crm or sqlite:///crm.db"
        )
    if url.password is not None or tells_password(address):
        raise ConfigurationError(
            f"{key} holds a password, which others of this machine could see; leave it out, and "
            "name an environment variable or a file that holds it"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url


def password_from(variable: str, file: str | Path) -> str | None:
    """Return the password of an environment variable or a file; None where neither is named.

    Raises
    ------
    ConfigurationError
        If both are named, or what is named is not there.
    """
    if variable and file:
        raise ConfigurationError("give password_env or password_file, one of the two")
    if variable:
        if variable not in os.environ:
            raise ConfigurationError(f"password_env: there is no environment variable {variable}")
        return os.environ[variable]
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
    raise ConfigurationError(f"password_file {file} cannot be read: {reason}")


def create_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Return an engine that logs neither rows nor parameters.

    Raises
    ------
    ConfigurationError
        If there is no driver for such databases.
    """
    # SQLAlchemy logs every row where a program has set its loggers to DEBUG.
    logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGER}").setLevel(logging.WARNING)
    try:
        return sa.create_engine(url, hide_parameters=True, logging_name=_LOGGER, **options)
    except (ImportError, SQLAlchemyError):
        pass  # what a driver says may quote the address
    backend = url.get_backend_name()
    extra = "pip install fgcif[postgresql]" if backend == "postgresql" else "install it"
    raise ConfigurationError(f"there is no driver for {backend} here; {extra}")
