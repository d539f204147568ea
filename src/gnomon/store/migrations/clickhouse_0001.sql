-- The tables of duckdb_*.sql in ClickHouse's types. Each has a hidden column `batch`: the number of the write that
-- brought the row, which is seen once that number is committed (docs/decisions/0031); 0 where a change put it.
-- Months are the partitions, so that what is pruned or erased rewrites no other month. No TTL: retention is ours.
CREATE TABLE events (
  project LowCardinality(String), id UUID, id_text Nullable(String), ts DateTime64(6, 'UTC'),
  received_at DateTime64(6, 'UTC'), version Int64, type LowCardinality(String), user_id Nullable(String),
  device_id Nullable(String), session_id Nullable(String), source LowCardinality(Nullable(String)),
  application LowCardinality(Nullable(String)), domain Nullable(String), endpoint Nullable(String),
  method LowCardinality(Nullable(String)), status_code Nullable(Int16), duration_ms Nullable(Float64),
  bytes_sent Nullable(Int64), bytes_received Nullable(Int64), success Nullable(Bool),
  error_code LowCardinality(Nullable(String)), weight Float64, properties Nullable(String), batch Int64 MATERIALIZED 0,
  INDEX by_received received_at TYPE minmax, INDEX by_version version TYPE minmax, INDEX by_batch batch TYPE minmax,
  INDEX by_user user_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = {merge_tree} PARTITION BY toYYYYMM(ts) ORDER BY (project, ts) SETTINGS {durable};
CREATE TABLE samples (
  project LowCardinality(String), ts DateTime64(6, 'UTC'), received_at DateTime64(6, 'UTC'), version Int64,
  name LowCardinality(String), kind LowCardinality(String), value Float64, labels Nullable(String),
  id Nullable(String), batch Int64 MATERIALIZED 0,
  INDEX by_received received_at TYPE minmax, INDEX by_batch batch TYPE minmax
) ENGINE = {merge_tree} PARTITION BY toYYYYMM(ts) ORDER BY (project, ts) SETTINGS {durable};
CREATE TABLE books (
  project String, kind String, source Nullable(String), outcome String, reason String, n Int64,
  batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY (project, kind) SETTINGS {durable};
CREATE TABLE quarantine (
  project String, received_at DateTime64(6, 'UTC'), code String, detail Nullable(String), source Nullable(String),
  id Nullable(String), event Nullable(String), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY (project, received_at) SETTINGS {durable};
CREATE TABLE weighted (
  project String, first_ts DateTime64(6, 'UTC'), last_ts DateTime64(6, 'UTC'), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY project SETTINGS {durable};
CREATE TABLE rolled (
  project LowCardinality(String), rollup LowCardinality(String), tier LowCardinality(String), ts DateTime64(6, 'UTC'),
  type LowCardinality(String), source LowCardinality(Nullable(String)), application LowCardinality(Nullable(String)),
  domain Nullable(String), endpoint Nullable(String), method LowCardinality(Nullable(String)),
  status_code Nullable(Int16), success Nullable(Bool), error_code LowCardinality(Nullable(String)), n Float64,
  v Float64, duration_ms_has Nullable(Float64), duration_ms_sum Nullable(Float64), duration_ms_min Nullable(Float64),
  duration_ms_max Nullable(Float64), duration_ms_v0 Nullable(Float64), duration_ms_v1 Nullable(Float64),
  duration_ms_v2 Nullable(Float64), bytes_sent_has Nullable(Float64), bytes_sent_sum Nullable(Decimal(38, 6)),
  bytes_sent_min Nullable(Int64), bytes_sent_max Nullable(Int64), bytes_sent_v0 Nullable(Float64),
  bytes_sent_v1 Nullable(Float64), bytes_sent_v2 Nullable(Float64), bytes_received_has Nullable(Float64),
  bytes_received_sum Nullable(Decimal(38, 6)), bytes_received_min Nullable(Int64), bytes_received_max Nullable(Int64),
  bytes_received_v0 Nullable(Float64), bytes_received_v1 Nullable(Float64), bytes_received_v2 Nullable(Float64),
  duration_ms_at Array(Int32), duration_ms_w Array(Float64), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} PARTITION BY toYYYYMM(ts) ORDER BY (project, rollup, tier, ts) SETTINGS {durable};
CREATE TABLE people (project String, number Int64, actor String, batch Int64 MATERIALIZED 0)
ENGINE = {merge_tree} ORDER BY (project, number) SETTINGS {durable};
CREATE TABLE activity (
  project String, day Int32, person Int64, type LowCardinality(String), source LowCardinality(Nullable(String)),
  application LowCardinality(Nullable(String)), weight Float64, low Int64, high Int64, batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} PARTITION BY intDiv(day, 32) ORDER BY (project, day, person) SETTINGS {durable};
CREATE TABLE active_days (
  project String, day Int32, person Int64, weight Float64, low Int64, high Int64, batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} PARTITION BY intDiv(day, 32) ORDER BY (project, day, person) SETTINGS {durable};
CREATE TABLE sightings (
  project LowCardinality(String), version Int64, ts DateTime64(6, 'UTC'), actor String, type LowCardinality(String),
  source LowCardinality(Nullable(String)), application LowCardinality(Nullable(String)), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} PARTITION BY toYYYYMM(ts) ORDER BY (project, ts) SETTINGS {durable};
CREATE TABLE rolled_up (
  project String, until DateTime64(6, 'UTC'), version Int64, width Int64, dimensions String, zones String,
  batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY project SETTINGS {durable};
CREATE TABLE pruned (
  project String, kind String, type Nullable(String), before DateTime64(6, 'UTC'), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY project SETTINGS {durable};
CREATE TABLE alive (
  project String, first DateTime64(6, 'UTC'), last DateTime64(6, 'UTC'), batch Int64 MATERIALIZED 0
) ENGINE = {merge_tree} ORDER BY project SETTINGS {durable};
-- What a store is: one row for each value that a key ever had, the newest `batch` counts. One insert into it commits.
CREATE TABLE state_log (key String, value String, batch Int64)
ENGINE = {merge_tree} ORDER BY (key, batch) SETTINGS {durable};
CREATE VIEW state AS SELECT key, argMax(value, batch) AS value FROM state_log GROUP BY key;
