"""Every error becomes a JSON answer with a sentence."""

from __future__ import annotations

import structlog
import trio
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from gastown.contract.errors import ControlError, ErrorBody
from gastown.control.responses import reply
from gastown.kilo.errors import KiloError

__all__ = ["register_errors"]

log = structlog.get_logger()

_SENTENCES = {
    404: "Not found",
    405: "Method not allowed on this route",
    408: "The request body did not arrive in time",
    413: "The request body is too large",
}


def register_errors(app: QuartTrio) -> None:
    """Map our own errors, the framework's and all others. The answer to an unknown error has no details of it."""

    def answer(status: int, sentence: str) -> Response:
        return reply(ErrorBody(error=sentence), status, without_unset=True)

    async def control_error(error: ControlError) -> Response:
        response = reply(error.body, error.status, without_unset=True)
        if error.status == 503:
            response.headers["Retry-After"] = "5"
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def kilo_error(error: KiloError) -> Response:
        log.warning("kilo.request_failed", reason=str(error))
        return answer(502, f"The agent's server did not take the request: {error}")

    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        response = answer(status, _SENTENCES.get(status, error.name))
        if (allowed := getattr(error, "valid_methods", None)) is not None:
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    async def unknown_error(error: Exception) -> Response:
        log.error("request.crashed", exc_info=error)
        return answer(500, "Internal error; the log has the details")

    async def too_slow(_: trio.TooSlowError) -> Response:
        return answer(504, "A part of the request did not end in time")

    app.register_error_handler(ControlError, control_error)
    app.register_error_handler(KiloError, kilo_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(trio.TooSlowError, too_slow)
    app.register_error_handler(Exception, unknown_error)
