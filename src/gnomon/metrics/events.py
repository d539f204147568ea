"""Metrics of any event: how many, by how many people, in how many sessions; and of metric samples."""

from gnomon.metrics import Count, Max, Mean, Metric, Min, Quantile, Sum, Unique, declare

declare(
    Metric("events", Count()),
    Metric("people", Unique("actor")),
    Metric("sessions", Unique("session_id")),
    Metric("page_views", Count(where=["is", "type", ["page_view", "pageview"]])),
    Metric("samples", Count(), dataset="samples"),
    Metric("sum_value", Sum("value"), dataset="samples"),
    Metric("mean_value", Mean("value"), dataset="samples"),
    Metric("min_value", Min("value"), dataset="samples"),
    Metric("max_value", Max("value"), dataset="samples"),
    *(Metric(f"p{q}_value", Quantile("value", q / 100), dataset="samples") for q in (50, 90, 95, 99)),
)
