-- Words that DuckDB has and PostgreSQL has not, as functions with simple bodies, which PostgreSQL writes into the plan
-- of a statement (so none is STRICT, and those that read JSON are STABLE, as its own reading of JSON is). Executed at
-- every migration; each may be replaced by a better one at any time.

-- Exact: a double holds every microsecond of those years, and the cast rounds to the nearest. It takes half the time.
CREATE OR REPLACE FUNCTION epoch_us(timestamp) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN $1 < timestamp '2040-01-01' AND $1 > timestamp '1900-01-01'
    THEN (date_part('epoch', $1) * 1000000)::bigint ELSE (extract(epoch FROM $1) * 1000000)::bigint END;
-- Days and the rest of a day apart: an interval is multiplied by a double, which does not name every microsecond.
CREATE OR REPLACE FUNCTION make_timestamp(bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN timestamp '1970-01-01' + ($1 / 86400000000) * interval '1 day' + ($1 % 86400000000) * interval '1 microsecond';
CREATE OR REPLACE FUNCTION divide(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN $1 / $2;
CREATE OR REPLACE FUNCTION year(timestamp) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN date_part('year', $1)::bigint;
CREATE OR REPLACE FUNCTION month(timestamp) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN date_part('month', $1)::bigint;
CREATE OR REPLACE FUNCTION contains(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN strpos($1, $2) > 0;

-- A top-level key of a JSON object that is kept as text: its value as JSON, as it was written.
CREATE OR REPLACE FUNCTION json_at(text, text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ($1::json -> $2)::text;
-- The text or the number there, null where it is of another type. A pattern looks at the value once, and so the object
-- is read once; a test beside the value would read it again.
CREATE OR REPLACE FUNCTION json_text(text, text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
  RETURN substring(($1::json -> $2)::text FROM '^".*$')::json #>> '{}';
CREATE OR REPLACE FUNCTION json_number(text, text) RETURNS double precision LANGUAGE sql STABLE PARALLEL SAFE
  RETURN substring(($1::json -> $2)::text FROM '^-?[0-9].*$')::double precision;
-- What to group by: 1.0 is 1, -0.0 is 0, and null is SQL's null. Whole numbers of a size that doubles name (here: below
-- 9.007e15) are written without an exponent by the gate.
CREATE OR REPLACE FUNCTION json_key(text, text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(regexp_replace(($1::json -> $2)::text, 
    '^(?:-(?=0\.0$))?(-?(?:[0-9]{1,15}|[0-8][0-9]{15}|900[0-6][0-9]{12}))\.0$', '\1'), 'null');
-- The keys of a JSON object that is kept as text.
CREATE OR REPLACE FUNCTION json_keys(text) RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ARRAY(SELECT json_object_keys($1::json));
