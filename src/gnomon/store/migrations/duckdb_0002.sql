-- Rollups: one row for each bucket and combination of kept dimensions, holding mergeable state only (design, section 5).
-- `tier` is 'hour' (buckets of `width` in rolled_up) or 'day:<zone>' (local days, by their start in UTC).
-- n: weight; v: sum of w(w-1), for intervals. For each measure: weight of the rows that have it, sum, extremes, and the
-- sums of w(w-1), w(w-1)x, w(w-1)x^2 over those rows. duration_ms_at and duration_ms_w: bucket numbers and weights of a
-- log-bucket histogram. Sums of bytes are decimal, as a double does not name every integer.
CREATE TABLE rolled (
  project VARCHAR NOT NULL, rollup VARCHAR NOT NULL, tier VARCHAR NOT NULL, ts TIMESTAMP NOT NULL,
  type VARCHAR NOT NULL, source VARCHAR, application VARCHAR, domain VARCHAR, endpoint VARCHAR, method VARCHAR,
  status_code SMALLINT, success BOOLEAN, error_code VARCHAR, n DOUBLE NOT NULL, v DOUBLE NOT NULL,
  duration_ms_has DOUBLE, duration_ms_sum DOUBLE, duration_ms_min DOUBLE, duration_ms_max DOUBLE,
  duration_ms_v0 DOUBLE, duration_ms_v1 DOUBLE, duration_ms_v2 DOUBLE,
  bytes_sent_has DOUBLE, bytes_sent_sum DECIMAL(38, 6), bytes_sent_min BIGINT, bytes_sent_max BIGINT,
  bytes_sent_v0 DOUBLE, bytes_sent_v1 DOUBLE, bytes_sent_v2 DOUBLE,
  bytes_received_has DOUBLE, bytes_received_sum DECIMAL(38, 6), bytes_received_min BIGINT, bytes_received_max BIGINT,
  bytes_received_v0 DOUBLE, bytes_received_v1 DOUBLE, bytes_received_v2 DOUBLE,
  duration_ms_at INTEGER[], duration_ms_w DOUBLE[]);
-- Who was active: one row for each UTC day, person and combination of the few dimensions of activity. Bit k of the masks
-- (low: quarters 0-47, high: 48-95) says that the person was active in that quarter-hour of the day. `active_days` is
-- the same without dimensions.
CREATE TABLE people (project VARCHAR NOT NULL, number BIGINT NOT NULL, actor VARCHAR NOT NULL);
CREATE TABLE activity (
  project VARCHAR NOT NULL, day INTEGER NOT NULL, person BIGINT NOT NULL, type VARCHAR NOT NULL, source VARCHAR,
  application VARCHAR, weight DOUBLE NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL);
CREATE TABLE active_days (
  project VARCHAR NOT NULL, day INTEGER NOT NULL, person BIGINT NOT NULL, weight DOUBLE NOT NULL, low BIGINT NOT NULL,
  high BIGINT NOT NULL);
-- People of events that sampling left out: they count as people, and nowhere else. `ts` is the start of a quarter-hour.
CREATE TABLE sightings (
  project VARCHAR NOT NULL, version BIGINT NOT NULL, ts TIMESTAMP NOT NULL, actor VARCHAR NOT NULL,
  type VARCHAR NOT NULL, source VARCHAR, application VARCHAR);
-- How far each project is rolled up: every row of a version up to `version` with a ts before `until`.
CREATE TABLE rolled_up (
  project VARCHAR NOT NULL, until TIMESTAMP NOT NULL, version BIGINT NOT NULL, width BIGINT NOT NULL,
  dimensions VARCHAR NOT NULL, zones VARCHAR NOT NULL);
-- Time that was pruned, by what was pruned: 'raw' (`type` NULL = every type), 'hour', 'day'. Raw time is sealed.
CREATE TABLE pruned (project VARCHAR NOT NULL, kind VARCHAR NOT NULL, type VARCHAR, before TIMESTAMP NOT NULL);
