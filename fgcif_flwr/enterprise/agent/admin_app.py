"""The socket of the enterprise's own people: operations by name."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fgcif_flwr.enterprise.agent.admin import ANSWER, ARROW_TYPE
from fgcif_flwr.enterprise.agent.operation import Answer, Operation, Operations
from fgcif_flwr.enterprise.agent.own_log import log_event
from fgcif_flwr.enterprise.agent.reading import NotTakenError, announced, read_body
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import ConfigurationError, FgcifError

logger = logging.getLogger(__name__)

_CLOSE = {"connection": "close"}


@dataclass(frozen=True)
class AdminSocket:
    """The ASGI application of the admin socket.

    Attributes
    ----------
    site : Site
    operations : mapping of str to Operation
    executor : Executor
        Threads in which operations run, beside the answers to the coordinator.
    most : int
        Largest request, in bytes.
    """

    site: Site
    operations: Operations
    executor: Executor
    most: int

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[Route("/v1/{name}", self._handle, methods=["POST"])],
            exception_handlers={404: _no_path, 405: _no_path},
        )

    async def _handle(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        operation = self.operations.get(name)
        if operation is None:
            return _refused(name, ConfigurationError(f"this agent has no operation {name}"), 404)
        try:
            body = await read_body(request, announced(request, self.most))
        except NotTakenError as error:
            return _refused(name, ConfigurationError(str(error)), error.status)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self._run, name, operation, body)

    def _run(self, name: str, operation: Operation, body: bytes) -> Response:
        try:
            answer = operation.run(self.site, _read(name, operation, body))
            response = _written(answer)
        except FgcifError as error:
            return _refused(name, error, 422)
        except Exception:  # its words may quote a cell; they stay out of logs and replies
            logger.exception("operation %s failed", name)
            return _refused(name, FgcifError("internal error; agent.log says where"), 500)
        log_event(logger, "operation", outcome="answered", name=name)
        return response


def _read(name: str, operation: Operation, body: bytes) -> Any:
    try:
        return operation.request.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the request"
        raise ConfigurationError(f"{name}: {key}: {first['msg']}") from None


def _written(answer: Answer) -> Response:
    head = {"result": answer.result, "warnings": list(answer.warnings)}
    if answer.table is None:
        return JSONResponse(head, headers=_CLOSE)
    table = answer.table
    kept = {**(table.schema.metadata or {}), ANSWER: json.dumps(head).encode()}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.with_metadata(kept)) as stream:
        stream.write_table(table)
    headers = {"content-type": ARROW_TYPE, **_CLOSE}
    return Response(sink.getvalue().to_pybytes(), headers=headers)


async def _no_path(request: Request, error: Exception) -> Response:
    found = ConfigurationError("the admin socket takes POST /v1/NAME of an operation")
    return _refused(str(request.scope["path"]), found, getattr(error, "status_code", 404))


def _refused(name: str, error: FgcifError, status: int) -> Response:
    log_event(logger, "operation", outcome="refused", name=name, code=error.exit_code)
    told = {"error": {"exit_code": error.exit_code, "message": str(error)}}
    return JSONResponse(told, status, headers=_CLOSE)
