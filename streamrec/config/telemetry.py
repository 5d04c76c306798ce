"""Define the settings of what a deployment says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamrec.config.section import Duration, Section


class TelemetryConfig(Section):
    """Choose how log lines look, and where traces go.

    ``log_format``: ``plain`` lines, or ``json``: one object a line, from every process. ``traces_endpoint``: an OTLP receiver over HTTP, such as
    ``http://collector:4318``, which takes traces below ``/v1/traces``; empty makes none. What it asks for beside an address is in OpenTelemetry's own
    variables, such as ``OTEL_EXPORTER_OTLP_HEADERS``. ``traces_every_s``: of the versions that are published within it one is traced.
    """

    log_format: Literal["plain", "json"] = "plain"
    traces_endpoint: str = Field(default="", max_length=500, pattern=r"^(https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?)?$")
    traces_every_s: Duration = 10.0
