-- Words that DuckDB has and PostgreSQL has not, as functions with simple bodies, which PostgreSQL writes into the plan
-- of a statement (so none is STRICT, and those that read JSON are STABLE, as its own reading of JSON is). Executed where a
-- store has older ones; each may be replaced by a better one at any time, with the next number of `WORDS` in opening.py.

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

-- Arithmetic of doubles as every other store has it: what is too large for one is infinite, what is too small is 0, where
-- PostgreSQL raises an error. It stands in the place of PostgreSQL's own only in a transaction that is repeated with its
-- schema behind this one (`begin` of opening.py, `careful`), as it takes longer.
-- In PL/pgSQL, as what PostgreSQL cannot write into the plan takes several times as long in SQL. It reads its operators when it
-- runs, so they are named in full.
CREATE OR REPLACE FUNCTION ieee_plus(a double precision, b double precision) RETURNS double precision
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$BEGIN
    IF a < 8e307 AND a > -8e307 AND b < 8e307 AND b > -8e307 OR least(abs(a), abs(b)) < 1e291 OR sign(a) <> sign(b)
      OR greatest(abs(a), abs(b)) >= 'infinity'
      OR abs((a OPERATOR(pg_catalog./) 2) OPERATOR(pg_catalog.+) (b OPERATOR(pg_catalog./) 2)) < 8.988465674311575e307
      THEN RETURN a OPERATOR(pg_catalog.+) b; END IF;
    RETURN sign(a) OPERATOR(pg_catalog.*) 'infinity';
  END$$;
CREATE OR REPLACE FUNCTION ieee_minus(a double precision, b double precision) RETURNS double precision
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$BEGIN RETURN ieee_plus(a, -b); END$$;
CREATE OR REPLACE FUNCTION ieee_times(a double precision, b double precision) RETURNS double precision
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$DECLARE x float8 := abs(a); y float8 := abs(b); BEGIN
    IF x < 1e150 AND x > 1e-150 AND y < 1e150 AND y > 1e-150 OR x = 0 OR y = 0 OR x >= 'infinity' OR y >= 'infinity'
      THEN RETURN a OPERATOR(pg_catalog.*) b;
    ELSIF y > 1 AND x > float8 '1.797693134862315e308' OPERATOR(pg_catalog./) y
      THEN RETURN sign(a) OPERATOR(pg_catalog.*) sign(b) OPERATOR(pg_catalog.*) 'infinity';
    ELSIF y < 1 AND x < float8 '5e-324' OPERATOR(pg_catalog./) y THEN RETURN 0; END IF;
    RETURN a OPERATOR(pg_catalog.*) b;
  END$$;
CREATE OR REPLACE FUNCTION ieee_over(a double precision, b double precision) RETURNS double precision
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$DECLARE x float8 := abs(a); y float8 := abs(b); BEGIN
    IF x < 1e150 AND x > 1e-150 AND y < 1e150 AND y > 1e-150 OR x = 0 OR y = 0 OR x >= 'infinity' OR y >= 'infinity'
      THEN RETURN a OPERATOR(pg_catalog./) b;
    ELSIF y < 1 AND x > float8 '1.797693134862315e308' OPERATOR(pg_catalog.*) y
      THEN RETURN sign(a) OPERATOR(pg_catalog.*) sign(b) OPERATOR(pg_catalog.*) 'infinity';
    ELSIF y > 1 AND x < float8 '5e-324' OPERATOR(pg_catalog.*) y THEN RETURN 0; END IF;
    RETURN a OPERATOR(pg_catalog./) b;
  END$$;
CREATE OR REPLACE FUNCTION exp(double precision) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN $1 > 709.7827 THEN 'infinity' WHEN $1 < -745.1 THEN 0 ELSE pg_catalog.exp($1) END;
-- Of what stands in statements: squares.
CREATE OR REPLACE FUNCTION power(double precision, double precision) RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN $2 = 2 THEN ieee_times($1, $1) ELSE pg_catalog.power($1, $2) END;
CREATE OR REPLACE FUNCTION ieee_mean_of(double precision[], double precision) RETURNS double precision[]
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$BEGIN RETURN ARRAY[$1[1] OPERATOR(pg_catalog.+) 1, ieee_plus($1[2], $2)]; END$$;
CREATE OR REPLACE FUNCTION ieee_mean(double precision[]) RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ieee_over($1[2], nullif($1[1], 0));
CREATE OR REPLACE AGGREGATE sum(double precision)
  (SFUNC = ieee_plus, STYPE = double precision, COMBINEFUNC = ieee_plus, PARALLEL = SAFE);
CREATE OR REPLACE AGGREGATE avg(double precision)
  (SFUNC = ieee_mean_of, STYPE = double precision[], INITCOND = '{0,0}', FINALFUNC = ieee_mean, PARALLEL = SAFE);
DROP OPERATOR IF EXISTS {schema}.+(double precision, double precision), {schema}.-(double precision, double precision),
  {schema}.*(double precision, double precision), {schema}./(double precision, double precision);
CREATE OPERATOR {schema}.+ (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = ieee_plus);
CREATE OPERATOR {schema}.- (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = ieee_minus);
CREATE OPERATOR {schema}.* (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = ieee_times);
CREATE OPERATOR {schema}./ (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = ieee_over);
