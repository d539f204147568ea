"""Gnomon, the analytics engine you import: record, keep, ask. Names resolve on first use; importing loads no driver."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.access import Principal as Principal
    from gnomon.client import connect as connect
    from gnomon.config import Settings as Settings
    from gnomon.engine import AnalyticsEngine as AnalyticsEngine
    from gnomon.engine import open as open
    from gnomon.errors import GnomonError as GnomonError
    from gnomon.metrics import Metric as Metric
    from gnomon.metrics import metric as metric
    from gnomon.query.model import Query as Query
    from gnomon.query.result import Result as Result
    from gnomon.server.app import create_app as create_app
    from gnomon.timerange import DateRange as DateRange
    from gnomon.timerange import Grain as Grain
    from gnomon.upkeep.retention import RetentionPolicy as RetentionPolicy

__version__ = "0.1.0"

_HOME = {
    "AnalyticsEngine": "gnomon.engine",
    "DateRange": "gnomon.timerange",
    "GnomonError": "gnomon.errors",
    "Grain": "gnomon.timerange",
    "Metric": "gnomon.metrics",
    "Principal": "gnomon.access",
    "Query": "gnomon.query.model",
    "Result": "gnomon.query.result",
    "RetentionPolicy": "gnomon.upkeep.retention",
    "Settings": "gnomon.config",
    "connect": "gnomon.client",
    "create_app": "gnomon.server.app",
    "metric": "gnomon.metrics",
    "open": "gnomon.engine",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gnomon' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
