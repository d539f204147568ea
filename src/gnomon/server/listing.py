"""What can be asked, as `GET /catalog` lists it: everything that has a name, custom metrics included."""

from __future__ import annotations

from typing import Any

from gnomon import catalog, metrics
from gnomon.query.model import OPERATORS
from gnomon.timerange import NAMED_RANGES


def catalog_body() -> dict[str, Any]:
    """Every name that a question may hold."""
    return {
        "metrics": [
            {"name": metric.name, "dataset": metric.dataset, "unit": metric.unit, "rate": metric.is_rate,
             "better": metric.better}
            for metric in metrics.known()
        ],
        "aggregates": ["count", *metrics.AGGREGATES, "p50", "p90", "p95", "p99"],
        "dimensions": [
            {"name": dimension.name, "dataset": data.name, "type": dimension.kind}
            for data in catalog.DATASETS.values()
            for dimension in data.dimensions.values()
        ],
        "measures": {data.name: list(data.measures) for data in catalog.DATASETS.values()},
        "keys": {data.name: f"{data.json_prefix}<key>" for data in catalog.DATASETS.values()},
        "time": [f"time:{grain}" for grain in catalog.TIME_GRAINS],
        "aliases": {**metrics.ALIASES, **catalog.ALIASES, "event:props:<key>": "properties.<key>"},
        "filters": list(OPERATORS),
        "ranges": [*NAMED_RANGES, "all"],
    }  # fmt: skip


def catalog_example() -> dict[str, Any]:
    """The same, of each list only its beginning."""
    return {name: told[:2] if isinstance(told, list) else told for name, told in catalog_body().items()}
