"""Settings: read once from arguments, environment or a TOML file at the edges, then passed along as one value.

Nothing else in the package looks at the environment. An unknown or wrongly typed setting is refused, never ignored.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from gnomon.errors import InvalidValue, unknown_name

PREFIX = "GNOMON_"
#: Plain names that work beside GNOMON_<NAME>.
PLAIN_ALIASES = {
    "DATABASE_URL": "database_url",
    "MAX_BATCH_SIZE": "max_batch_size",
    "EVENT_RETENTION_DAYS": "event_retention_days",
    "METRICS_RETENTION_DAYS": "metrics_retention_days",
    "LOG_LEVEL": "log_level",
    "JWT_SECRET_KEY": "jwt_secret_key",
    "JWT_PUBLIC_KEY_FILE": "jwt_public_key_file",
    "JWT_JWKS_FILE": "jwt_jwks_file",
    "JWT_ALGORITHMS": "jwt_algorithms",
    "JWT_AUDIENCE": "jwt_audience",
    "JWT_ISSUER": "jwt_issuer",
    "RATE_LIMIT_PER_MINUTE": "rate_limit_per_minute",
    "CELERY_BROKER_URL": "celery_broker_url",
    "CELERY_RESULT_BACKEND": "celery_result_backend",
}
#: How long the service keeps events and samples where no setting says so.
EVENT_DAYS, METRIC_DAYS = 90, 365
#: Read elsewhere at the edge, or not a setting of the engine.
NOT_SETTINGS = {PREFIX + "CONFIG"}
WORDS = {"on": True, "yes": True, "off": False, "no": False}
#: Least values of settings for which 1 is not it; every other number is at least 1, and times are more than 0 s.
LEAST = {"threads": 0, "cache_entries": 0, "cache_seconds": 0, "max_past_days": 0, "max_future_seconds": 0,
         "max_properties": 0, "checkpoint_seconds": 0, "heartbeat_seconds": 0, "rollup_lag_seconds": 0,
         "journal_max_bytes": 1024**2, "sampling_seed": 0, "sampling_floor_per_source": 0,
         "audit_days": 365, "rate_limit_per_minute": 0, "max_types": 0, "max_property_keys": 0,
         "max_new_names_per_minute": 0, "max_in_flight_bytes": 1024**2}  # fmt: skip
LISTS = (
    "timezones",
    "sampled_types",
    "rollups",
    "pseudonym_keys",
    "pseudonym_properties",
    "jwt_secret_key",
    "jwt_public_key_file",
    "jwt_algorithms",
    "cors_origins",
    "trusted_proxies",
)  #: parted by commas
#: Secrets: no caller in another's name gets them.
SECRETS = ("pseudonym_keys", "jwt_secret_key", "rate_limit_url", "alert_webhook", "alert_webhook_secret",
           "celery_broker_url", "celery_result_backend", "cache_url")  # fmt: skip
SWITCHES = (
    "enabled",
    "sampling",
    "scheduler",
    "backup_daily",
    "metrics_public",
    "docs_public",
)  #: these take words; a project may well be named `no`


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their defaults. Sizes are bytes, times are seconds unless the name says otherwise."""

    enabled: bool = True  #: False makes every recording call a no-op
    database_url: str = field(default="gnomon.duckdb", repr=False)
    data_dir: str = (
        ""  #: of journal, audit and backups of a store that is no file, and of exports; empty: ./gnomon-data
    )
    project: str = "default"
    timezones: tuple[str, ...] = ("UTC",)
    log_level: str = "WARNING"  #: of the command line; a host configures its own logging
    log_format: Literal["text", "json"] = "text"

    max_batch_size: int = 1_000  #: events in one wire batch
    max_event_bytes: int = 32 * 1024
    max_nesting: int = 16  #: the event itself is level 1
    max_properties: int = 256
    max_string_bytes: int = 8 * 1024
    max_body_bytes: int = 10 * 1024 * 1024
    max_unpacked_bytes: int = 20 * 1024 * 1024
    max_past_days: int = 3_653  #: ten years
    max_future_seconds: int = 3_600

    buffer_events: int = 100_000  #: events waiting in memory; more are shed and counted
    flush_events: int = 25_000  #: a buffer this long is written at once
    flush_seconds: float = 0.2  #: and at the latest after this time
    journal_max_bytes: int = 4 * 1024**3  #: the journal refuses to grow beyond this
    checkpoint_seconds: float = 60.0
    heartbeat_seconds: float = 60.0  #: an engine says this often that it is there; 0: it does not, and no gap is told
    checkpoint_bytes: int = 64 * 1024**2  #: journal content that makes a checkpoint due earlier

    rollups: tuple[str, ...] = (
        "source+application+domain+status_code+success+error_code", "application+endpoint+method+status_code+success",
    )  # fmt: skip  #: what each keeps apart, the smallest first
    rollup_lag_seconds: float = 300.0  #: a bucket is rolled up this long after it has ended

    sampling: bool = True  #: False keeps every event, whatever the pace
    sampling_low: float = 10_000.0  #: events a minute up to which everything is kept; an admin's value wins
    sampling_high: float = 100_000.0  #: and from which on `sampling_rate` of the sampled types is
    sampling_rate: float = 0.1
    sampled_types: tuple[str, ...] = ("request",)
    sampling_seed: int = 0
    sampling_floor_per_source: int = 10  #: events of each source in a minute that are always kept

    pseudonym_keys: tuple[str, ...] = field(default=(), repr=False)  #: the first is in use; none: ids are kept as given
    pseudonym_properties: tuple[str, ...] = ()  #: keys of properties whose values become pseudonyms as well

    memory_limit: str = "1GB"  #: of the embedded store
    threads: int = 0  #: of the embedded store; 0 = one per core
    database_connections: int = 8  #: to a database server for questions, at most; writing has one more
    query_timeout_seconds: float = 30.0
    cache_entries: int = 256
    cache_seconds: float = 300.0
    cache_url: str = field(default="", repr=False)  #: redis://...: answers are kept there for all processes as well
    max_rows: int = 10_000  #: rows a page
    max_buckets: int = 50_000

    backup_daily: bool | None = None  #: whether the scheduler makes backups; None: of stores that are files
    backup_target: str = ""  #: a folder or URL; empty: `backups` in data_dir, else beside the store
    backup_days: int = 30  #: good backups are kept this long
    backup_key_file: str = ""  #: an age identity file; empty: archives are not encrypted

    export_dir: str = ""  #: where `<store>.exports` is made; empty: beside the store
    export_days: int = 7  #: finished exports are kept this long

    event_retention_days: int | None = None
    metrics_retention_days: int | None = None
    scheduler: bool = False  #: run the jobs in the background, in the process that owns the store
    audit_days: int = 365  #: entries of the audit are kept at least so long
    celery_broker_url: str = field(default="", repr=False)  #: jobs and exports of a store on a server go to workers
    celery_result_backend: str = field(default="", repr=False)  #: keeps how their tasks ended; empty: nothing does
    worker_seconds: float = 3_600.0  #: the longest that a task of a worker may take

    alert_webhook: str = field(default="", repr=False)  #: alerts are posted there; https, or http on loopback
    alert_webhook_secret: str = field(default="", repr=False)  #: signs them; empty: they are not signed

    jwt_secret_key: tuple[str, ...] = field(default=(), repr=False)  #: of HS256; several for a rotation
    jwt_public_key_file: tuple[str, ...] = ()  #: PEM files of RS256, ES256 and EdDSA
    jwt_jwks_file: str = ""
    jwt_algorithms: tuple[str, ...] = ()  #: the only ones accepted; empty: whatever the keys are made for
    jwt_audience: str = ""  #: must be the token's `aud`; empty: not looked at
    jwt_issuer: str = ""
    cors_origins: tuple[str, ...] = ()  #: whose pages may call with a token; write keys have their own
    trusted_proxies: tuple[str, ...] = ()  #: addresses or networks whose X-Forwarded-For is believed
    rate_limit_per_minute: int = 100  #: calls of one principal; 0: no limit
    rate_limit_url: str = field(default="memory://", repr=False)  #: where calls are counted; or redis://...
    max_types: int = 10_000  #: event types of a project that may come in over HTTP; 0: no limit
    max_property_keys: int = 50_000
    max_new_names_per_minute: int = 1_000
    max_in_flight_bytes: int = 64 * 1024**2  #: bodies that are worked on at the same time; more get a 503
    metrics_public: bool = False  #: whether /metrics needs no token
    docs_public: bool = True  #: whether the API's description is shown to anybody

    def for_service(self) -> Settings:
        """These settings as the service has them, which keeps nothing for ever unless somebody says so."""
        return self.but(
            event_retention_days=self.event_retention_days or EVENT_DAYS,
            metrics_retention_days=self.metrics_retention_days or METRIC_DAYS,
        )

    def but(self, **changes: Any) -> Settings:
        """These settings with some changed. Raises `UnknownName` and `InvalidValue` as `read_settings` does."""
        return replace(self, **_checked(changes, strict=True))


def read_settings(environ: Mapping[str, str] | None = None, file: str | Path | None = None) -> Settings:
    """Settings from a TOML file (table [gnomon] or top level) overlaid by the environment.

    `file` defaults to GNOMON_CONFIG when that is set. Raises `InvalidValue` for a value of the wrong type or a
    file that is missing or no TOML, `UnknownName` for a setting that does not exist.
    """
    env = os.environ if environ is None else environ
    file = file or env.get(PREFIX + "CONFIG")
    given: dict[str, Any] = dict(_from_toml(Path(file))) if file else {}
    given.update(_from_environment(env))
    if given.get("data_dir"):
        given.setdefault("export_dir", given["data_dir"])
    return Settings(**_checked(given, strict=False))


def _from_toml(path: Path) -> Mapping[str, Any]:
    import tomllib  # deferred: most programs have no such file

    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidValue(
            "the settings file cannot be read", remedy="Give the path of a TOML file.", code="bad-config"
        ) from error
    own = table.get("gnomon", table)
    if not isinstance(own, dict):
        raise InvalidValue("`gnomon` in the settings file is not a table", remedy="Write [gnomon].", code="bad-config")
    return own


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {setting: env[plain] for plain, setting in PLAIN_ALIASES.items() if env.get(plain)}
    for key, value in env.items():
        if key.startswith(PREFIX) and key not in NOT_SETTINGS:
            found[key[len(PREFIX) :].lower()] = value
    for name in found.keys() & set(LISTS):
        found[name] = tuple(part.strip() for part in found[name].split(",") if part.strip())
    if found.get("pseudonym_keys") == ():
        raise InvalidValue(
            "the pseudonym keys are set, but empty", remedy="Give a key, or remove the variable.", code="weak-key"
        )
    for name in found.keys() & set(SWITCHES):
        found[name] = WORDS.get(found[name].strip().lower(), found[name])
    return found


def _checked(given: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """The given settings in their types; unless `strict`, texts are read as numbers where numbers belong."""
    import msgspec  # deferred: `import gnomon` stays light

    known = {f.name for f in fields(Settings)}
    for name in given:
        if name not in known:
            raise unknown_name("setting", name, known)
    try:
        typed = msgspec.convert(given, Settings, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"a setting has a value of the wrong type: {error}", code="bad-config") from error
    checked = {name: getattr(typed, name) for name in given}
    for name, value in checked.items():
        _check_range(name, value)
    if checked.get("pseudonym_keys"):
        from gnomon.pseudonyms import check_keys  # deferred: most programs have none

        check_keys(checked["pseudonym_keys"])
    if checked.get("alert_webhook"):
        _check_webhook(checked["alert_webhook"])
    return checked


def _check_webhook(url: str) -> None:
    from urllib.parse import urlsplit  # deferred, as above

    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
        safe = safe and bool(parts.hostname) and parts.port != 0
    except ValueError:
        safe = False
    if not safe:
        raise InvalidValue("alert_webhook is neither https nor http on loopback", remedy="Give an https:// URL.",
                           code="bad-config")  # fmt: skip


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address  # deferred, as above

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def without_keys(settings: Settings) -> Settings:
    """The settings as a caller who only may read them gets them."""
    blank: dict[str, Any] = {name: type(getattr(settings, name))() for name in SECRETS}
    return replace(settings, **blank, database_url=shown(settings.database_url))


def shown(url: str) -> str:
    """A store's URL as it may be printed: without its password."""
    return re.sub(r"(?i)(^[a-z+]+://[^/?#@:]*:).*(?=@)|(?<=[?&]password=)[^&]*", r"\1***", url)


def _check_range(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least = LEAST.get(name, 0 if isinstance(value, float) else 1)
    if not (least <= value < math.inf) or (isinstance(value, float) and value == 0 and name not in LEAST):
        more = "more than" if least == 0 and name not in LEAST else "at least"
        raise InvalidValue(
            f"the setting {name} is {value:g}", remedy=f"Give a number of {more} {least}.", code="bad-config"
        )
