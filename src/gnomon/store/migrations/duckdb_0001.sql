-- Event tables have no primary key, unique or secondary index: docs/decisions/0003.
CREATE TABLE events (
  project VARCHAR NOT NULL, id UUID NOT NULL, id_text VARCHAR, ts TIMESTAMP NOT NULL, received_at TIMESTAMP NOT NULL,
  version BIGINT NOT NULL, type VARCHAR NOT NULL, user_id VARCHAR, device_id VARCHAR, session_id VARCHAR,
  source VARCHAR, application VARCHAR, domain VARCHAR, endpoint VARCHAR, method VARCHAR, status_code SMALLINT,
  duration_ms DOUBLE, bytes_sent BIGINT, bytes_received BIGINT, success BOOLEAN, error_code VARCHAR,
  weight DOUBLE NOT NULL, properties VARCHAR);
CREATE TABLE samples (
  project VARCHAR NOT NULL, ts TIMESTAMP NOT NULL, received_at TIMESTAMP NOT NULL, version BIGINT NOT NULL,
  name VARCHAR NOT NULL, kind VARCHAR NOT NULL, value DOUBLE NOT NULL, labels VARCHAR);
CREATE TABLE books (
  project VARCHAR NOT NULL, kind VARCHAR NOT NULL, source VARCHAR, outcome VARCHAR NOT NULL, reason VARCHAR NOT NULL,
  n BIGINT NOT NULL);
CREATE TABLE quarantine (
  project VARCHAR NOT NULL, received_at TIMESTAMP NOT NULL, code VARCHAR NOT NULL, detail VARCHAR, source VARCHAR,
  id VARCHAR, event VARCHAR);
-- The spans of time that hold rows of a weight other than 1; outside them counting rows is exact.
CREATE TABLE weighted (project VARCHAR NOT NULL, first_ts TIMESTAMP NOT NULL, last_ts TIMESTAMP NOT NULL);
CREATE TABLE state (key VARCHAR NOT NULL, value VARCHAR NOT NULL);
