"""Metrics of requests: outcomes, rates, durations and bytes. An unknown outcome is neither a success nor a failure."""

from gnomon.metrics import Count, Max, Mean, Metric, Min, Quantile, Ratio, Sum, declare

_SUCCESS = Count(where=["is", "success", [True]])
_FAILURE = Count(where=["is", "success", [False]])
_KNOWN = Count(where=["is_set", "success"])

declare(
    Metric("requests", Count(where=["is", "type", ["request"]])),
    Metric("successes", _SUCCESS, better="up"),
    Metric("failures", _FAILURE, better="down"),
    Metric("unknown", Count(where=["not", ["is_set", "success"]])),
    Metric("success_rate", Ratio(_SUCCESS, _KNOWN, share=True), better="up"),
    Metric("error_rate", Ratio(_FAILURE, _KNOWN, share=True), better="down"),
)
for _field, _unit in (("duration_ms", "ms"), ("bytes_sent", "B"), ("bytes_received", "B")):
    declare(
        Metric(f"mean_{_field}", Mean(_field), _unit),
        Metric(f"sum_{_field}", Sum(_field), _unit),
        Metric(f"min_{_field}", Min(_field), _unit),
        Metric(f"max_{_field}", Max(_field), _unit),
        *(Metric(f"p{_q}_{_field}", Quantile(_field, _q / 100), _unit) for _q in (50, 90, 95, 99)),
    )
