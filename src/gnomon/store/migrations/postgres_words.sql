-- Words that DuckDB has and PostgreSQL has not, as functions that PostgreSQL writes into the plan of a statement
-- (simple bodies, immutable). Executed at every migration; each may be replaced by a better one at any time.

-- Exact: a double holds every microsecond of the years 1834 to 2106, and the cast rounds to the nearest.
CREATE OR REPLACE FUNCTION epoch_us(timestamp) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN (date_part('epoch', $1) * 1000000)::bigint;
CREATE OR REPLACE FUNCTION make_timestamp(bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN timestamp '1970-01-01' + $1 * interval '1 microsecond';
