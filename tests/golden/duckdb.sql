-- Written by test_golden_sql.py, see there. Times are UTC microseconds; now is 2026-01-15T12:00:00Z.

-- count everything
-- {"metrics": ["events"]}
SELECT
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001);

-- requests by source
-- {"metrics": ["requests", "success_rate", "mean_duration_ms", "p95_duration_ms"], "dimensions": ["source"]}
SELECT
  source AS d0,
  CAST(COALESCE(COUNT_IF(type = 'request'), 0) AS BIGINT) AS m0,
  CAST(CAST(COALESCE(COUNT_IF(success), 0) AS BIGINT) AS DOUBLE) / NULLIF(COUNT(success), 0) AS m1,
  AVG(duration_ms) AS m2,
  QUANTILE_DISC(duration_ms, 0.95) AS m3
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- people and sessions
-- {"metrics": ["people", "sessions"], "dimensions": ["type"]}
SELECT
  type AS d0,
  COUNT(DISTINCT COALESCE(user_id, device_id)) AS m0,
  COUNT(DISTINCT session_id) AS m1
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- derived dimensions
-- {"metrics": ["events"], "dimensions": ["actor", "status_class", "success"]}
SELECT
  COALESCE(user_id, device_id) AS d0,
  status_code // 100 AS d1,
  success AS d2,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1,
  2,
  3
ORDER BY
  m0 DESC,
  d0 ASC,
  d1 ASC,
  d2 ASC
LIMIT 10001;

-- a series of hours
-- {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": "24h"}
SELECT
  (
    EPOCH_US(ts)
  ) // 3600000000 * 3600000000 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1768392000000001) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1;

-- a series of days in a zone of one offset
-- {"metrics": ["events"], "dimensions": ["time:day"], "date_range": "7d", "timezone": "Asia/Kathmandu"}
SELECT
  (
    EPOCH_US(ts) + (
      20700000000
    )
  ) // 86400000000 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1767873600000001) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1;

-- a series of days over a clock change
-- {"metrics": ["events"], "dimensions": ["time:day"], "date_range": ["2026-03-25", "2026-04-01"], "timezone": "Europe/Paris"}
SELECT
  (
    EPOCH_US(ts) + (
      CASE WHEN ts < MAKE_TIMESTAMP(1774746000000000) THEN 3600000000 ELSE 7200000000 END
    )
  ) // 86400000000 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1774393200000000) AND ts < MAKE_TIMESTAMP(1774994400000000)
GROUP BY
  1;

-- a series of hours over a clock change
-- {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": ["2026-03-25", "2026-04-01"], "timezone": "Australia/Lord_Howe"}
SELECT
  (
    EPOCH_US(ts) + (
      39600000000
    )
  ) // 3600000000 * 3600000000 - (
    39600000000
  ) AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1774357200000000) AND ts < MAKE_TIMESTAMP(1774962000000000)
GROUP BY
  1;

-- a series of weeks
-- {"metrics": ["events"], "dimensions": ["time:week"], "date_range": "4w"}
SELECT
  (
    (
      EPOCH_US(ts)
    ) // 86400000000 + 3
  ) // 7 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1766059200000001) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1;

-- a series of months
-- {"metrics": ["events"], "dimensions": ["time:month"], "date_range": "this_year", "timezone": "America/New_York"}
SELECT
  YEAR(
    MAKE_TIMESTAMP(
      EPOCH_US(ts) + (
        CASE
          WHEN ts < MAKE_TIMESTAMP(1772953200000000)
          THEN -18000000000
          WHEN ts < MAKE_TIMESTAMP(1793512800000000)
          THEN -14400000000
          ELSE -18000000000
        END
      )
    )
  ) * 12 + MONTH(
    MAKE_TIMESTAMP(
      EPOCH_US(ts) + (
        CASE
          WHEN ts < MAKE_TIMESTAMP(1772953200000000)
          THEN -18000000000
          WHEN ts < MAKE_TIMESTAMP(1793512800000000)
          THEN -14400000000
          ELSE -18000000000
        END
      )
    )
  ) - 1 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1767243600000000) AND ts < MAKE_TIMESTAMP(1798779600000000)
GROUP BY
  1;

-- a series of quarters
-- {"metrics": ["events"], "dimensions": ["time:quarter"], "date_range": "this_year"}
SELECT
  YEAR(MAKE_TIMESTAMP(EPOCH_US(ts) + (
    0
  ))) * 4 + (
    MONTH(MAKE_TIMESTAMP(EPOCH_US(ts) + (
      0
    ))) - 1
  ) // 3 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1767225600000000) AND ts < MAKE_TIMESTAMP(1798761600000000)
GROUP BY
  1;

-- days before 1971
-- {"metrics": ["events"], "dimensions": ["time:day"], "date_range": ["1970-01-01", "1970-02-01"], "timezone": "America/New_York"}
SELECT
  (
    EPOCH_US(ts) + (
      604799982000000000
    )
  ) // 86400000000 - 7000000 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(18000000000) AND ts < MAKE_TIMESTAMP(2696400000000)
GROUP BY
  1;

-- hours of the day and days of the week
-- {"metrics": ["events"], "dimensions": ["time:hour_of_day", "time:day_of_week"], "date_range": "4w"}
SELECT
  (
    (
      EPOCH_US(ts)
    ) // 3600000000
  ) % 24 AS d0,
  (
    (
      (
        EPOCH_US(ts)
      ) // 86400000000 + 3
    )
  ) % 7 + 1 AS d1,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1766059200000001) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1,
  2
ORDER BY
  d0 ASC,
  d1 ASC
LIMIT 10001;

-- time and source
-- {"metrics": ["events"], "dimensions": ["time:day", "source"], "date_range": "7d"}
SELECT
  (
    EPOCH_US(ts)
  ) // 86400000000 AS d0,
  source AS d1,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1767873600000001) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1,
  2
ORDER BY
  d0 ASC,
  d1 ASC
LIMIT 10001;

-- every plain filter
-- {"metrics": ["events"], "filters": [["is", "source", ["a", "b", null]], ["is_not", "type", ["x"]], ["contains", "endpoint", ["/a"]], ["contains_not", "endpoint", "'"], ["matches", "domain", "^a.*"], ["gt", "duration_ms", 1.5], ["lte", "status_code", 399], ["is_set", "error_code"], ["is", "success", [true]]]}
SELECT
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop'
  AND ts >= MAKE_TIMESTAMP(1736942400000000)
  AND ts < MAKE_TIMESTAMP(1768478400000001)
  AND (
    (
      source IS NULL OR source IN ('a', 'b')
    )
    AND NOT COALESCE(type = 'x', FALSE)
    AND CONTAINS(endpoint, '/a')
    AND NOT COALESCE(CONTAINS(endpoint, ''''), FALSE)
    AND REGEXP_MATCHES(domain, '^a.*', 's')
    AND (
      duration_ms > CAST('1.5' AS DOUBLE)
    )
    AND (
      status_code <= 399
    )
    AND NOT error_code IS NULL
    AND success
  );

-- and, or, not
-- {"metrics": ["events"], "filters": [["or", [["is", "type", ["request"]], ["not", ["and", [["is_set", "user_id"], ["gte", "bytes_sent", 5]]]]]]]}
SELECT
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop'
  AND ts >= MAKE_TIMESTAMP(1736942400000000)
  AND ts < MAKE_TIMESTAMP(1768478400000001)
  AND (
    type = 'request' OR NOT COALESCE((
      NOT user_id IS NULL AND (
        bytes_sent >= 5
      )
    ), FALSE)
  );

-- filters on a property
-- {"metrics": ["events"], "filters": [["is", "properties.plan", ["pro", 1, true, null]], ["gt", "properties.price", 10], ["contains", "properties.a/b~c", "'x'"], ["matches", "properties.plan", "p.o"], ["gte", "properties.plan", "m"], ["is_set", "properties.plan"]]}
SELECT
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop'
  AND ts >= MAKE_TIMESTAMP(1736942400000000)
  AND ts < MAKE_TIMESTAMP(1768478400000001)
  AND (
    (
      CASE
        WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) >= '#'
        THEN CASE
          WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) = 'null'
          THEN NULL
          WHEN JSON_TYPE(properties, '/plan') = 'DOUBLE'
          AND ABS(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) < 9007199254740992
          AND FLOOR(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) = TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)
          THEN CAST(CAST(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE) AS BIGINT) AS TEXT)
          ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
        END
        ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
      END IS NULL
      OR CASE WHEN JSON_TYPE(properties, '/plan') = 'VARCHAR' THEN JSON_EXTRACT_STRING(properties, '/plan') END IN ('pro')
      OR CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) IN ('true')
      OR CASE
        WHEN JSON_TYPE(properties, '/plan') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
        THEN TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)
      END IN (CAST('1.0' AS DOUBLE))
    )
    AND (
      CASE
        WHEN JSON_TYPE(properties, '/price') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
        THEN TRY_CAST(CAST(JSON_EXTRACT(properties, '/price') AS TEXT) AS DOUBLE)
      END > 10
    )
    AND CONTAINS(
      CASE WHEN JSON_TYPE(properties, '/a~1b~0c') = 'VARCHAR' THEN JSON_EXTRACT_STRING(properties, '/a~1b~0c') END,
      '''x'''
    )
    AND REGEXP_MATCHES(
      CASE WHEN JSON_TYPE(properties, '/plan') = 'VARCHAR' THEN JSON_EXTRACT_STRING(properties, '/plan') END,
      'p.o',
      's'
    )
    AND (
      CASE WHEN JSON_TYPE(properties, '/plan') = 'VARCHAR' THEN JSON_EXTRACT_STRING(properties, '/plan') END >= 'm'
    )
    AND NOT CASE
      WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) >= '#'
      THEN CASE
        WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) = 'null'
        THEN NULL
        WHEN JSON_TYPE(properties, '/plan') = 'DOUBLE'
        AND ABS(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) < 9007199254740992
        AND FLOOR(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) = TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)
        THEN CAST(CAST(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE) AS BIGINT) AS TEXT)
        ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
      END
      ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
    END IS NULL
  );

-- group by a property
-- {"metrics": ["events", {"agg": "sum", "field": "properties.price", "as": "revenue"}], "dimensions": ["properties.plan"]}
SELECT
  CASE
    WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) >= '#'
    THEN CASE
      WHEN CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) = 'null'
      THEN NULL
      WHEN JSON_TYPE(properties, '/plan') = 'DOUBLE'
      AND ABS(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) < 9007199254740992
      AND FLOOR(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)) = TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE)
      THEN CAST(CAST(TRY_CAST(CAST(JSON_EXTRACT(properties, '/plan') AS TEXT) AS DOUBLE) AS BIGINT) AS TEXT)
      ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
    END
    ELSE CAST(JSON_EXTRACT(properties, '/plan') AS TEXT)
  END AS d0,
  COUNT(*) AS m0,
  COALESCE(
    SUM(
      CASE
        WHEN JSON_TYPE(properties, '/price') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
        THEN TRY_CAST(CAST(JSON_EXTRACT(properties, '/price') AS TEXT) AS DOUBLE)
      END
    ),
    0
  ) AS m1
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- every aggregate
-- {"metrics": [{"agg": "count", "field": "duration_ms", "as": "count"}, {"agg": "sum", "field": "duration_ms", "as": "sum"}, {"agg": "mean", "field": "duration_ms", "as": "mean"}, {"agg": "min", "field": "duration_ms", "as": "min"}, {"agg": "max", "field": "duration_ms", "as": "max"}, {"agg": "unique", "field": "duration_ms", "as": "unique"}, {"agg": "median", "field": "duration_ms", "as": "median"}, {"agg": "p99.9", "field": "duration_ms", "as": "p99.9"}, {"agg": "count", "where": ["is", "type", ["request"]], "as": "r"}]}
SELECT
  COUNT(duration_ms) AS m0,
  COALESCE(SUM(duration_ms), 0) AS m1,
  AVG(duration_ms) AS m2,
  MIN(duration_ms) AS m3,
  MAX(duration_ms) AS m4,
  COUNT(DISTINCT duration_ms) AS m5,
  LIST_EXTRACT(QUANTILE_DISC(duration_ms, [0.5, 0.999]), 1) AS m6,
  LIST_EXTRACT(QUANTILE_DISC(duration_ms, [0.5, 0.999]), 2) AS m7,
  CAST(COALESCE(COUNT_IF(type = 'request'), 0) AS BIGINT) AS m8
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001);

-- order and limit
-- {"metrics": ["events", "people"], "dimensions": ["source", "domain"], "order_by": [["people", "desc"], ["domain", "asc"]], "limit": 20}
SELECT
  source AS d0,
  domain AS d1,
  COUNT(*) AS m0,
  COUNT(DISTINCT COALESCE(user_id, device_id)) AS m1
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1,
  2
ORDER BY
  m1 DESC,
  d1 ASC,
  d0 ASC
LIMIT 21;

-- the page behind a row
-- {"metrics": ["events"], "dimensions": ["source", "time:day"], "date_range": "7d", "limit": 2, "order_by": [["events", "desc"]], "cursor": [17, "b", 20466]}
WITH answer AS MATERIALIZED (
  SELECT
    source AS d0,
    (
      EPOCH_US(ts)
    ) // 86400000000 AS d1,
    COUNT(*) AS m0
  FROM events
  WHERE
    project = 'shop'
    AND ts >= MAKE_TIMESTAMP(1767873600000001)
    AND ts < MAKE_TIMESTAMP(1768478400000001)
    AND version <= 5
  GROUP BY
    1,
    2
)
SELECT
  *
FROM answer
WHERE
  (
    m0 < 17 OR m0 IS NULL
  )
  OR (
    m0 = 17 AND (
      d0 > 'b' OR d0 IS NULL
    )
  )
  OR (
    m0 = 17 AND d0 = 'b' AND (
      d1 > 20466 OR d1 IS NULL
    )
  )
ORDER BY
  m0 DESC,
  d0 ASC,
  d1 ASC
LIMIT 3;

-- the page behind a null
-- {"metrics": ["events"], "dimensions": ["source"], "limit": 2, "cursor": [17, null]}
WITH answer AS MATERIALIZED (
  SELECT
    source AS d0,
    COUNT(*) AS m0
  FROM events
  WHERE
    project = 'shop'
    AND ts >= MAKE_TIMESTAMP(1736942400000000)
    AND ts < MAKE_TIMESTAMP(1768478400000001)
    AND version <= 5
  GROUP BY
    1
)
SELECT
  *
FROM answer
WHERE
  (
    m0 < 17 OR m0 IS NULL
  )
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 3;

-- totals
-- {"metrics": ["events", "people"], "dimensions": ["source"], "totals": true}
SELECT
  COUNT(*) AS m0,
  COUNT(DISTINCT COALESCE(user_id, device_id)) AS m1
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001);

-- the previous period
-- {"metrics": ["events"], "dimensions": ["source"], "date_range": "7d", "compare": "previous", "other": true}
SELECT
  source AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1767268800000001) AND ts < MAKE_TIMESTAMP(1767873600000001)
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- a year before
-- {"metrics": ["events"], "dimensions": ["time:month"], "date_range": "this_month", "compare": "year", "other": true}
SELECT
  YEAR(MAKE_TIMESTAMP(EPOCH_US(ts) + (
    0
  ))) * 12 + MONTH(MAKE_TIMESTAMP(EPOCH_US(ts) + (
    0
  ))) - 1 AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1735689600000000) AND ts < MAKE_TIMESTAMP(1738368000000000)
GROUP BY
  1;

-- metric samples
-- {"metrics": ["samples", "mean_value", "p95_value"], "dimensions": ["name", "labels.queue"], "dataset": "samples"}
SELECT
  name AS d0,
  CASE
    WHEN CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) >= '#'
    THEN CASE
      WHEN CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) = 'null'
      THEN NULL
      WHEN JSON_TYPE(labels, '/queue') = 'DOUBLE'
      AND ABS(TRY_CAST(CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) AS DOUBLE)) < 9007199254740992
      AND FLOOR(TRY_CAST(CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) AS DOUBLE)) = TRY_CAST(CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) AS DOUBLE)
      THEN CAST(CAST(TRY_CAST(CAST(JSON_EXTRACT(labels, '/queue') AS TEXT) AS DOUBLE) AS BIGINT) AS TEXT)
      ELSE CAST(JSON_EXTRACT(labels, '/queue') AS TEXT)
    END
    ELSE CAST(JSON_EXTRACT(labels, '/queue') AS TEXT)
  END AS d1,
  COUNT(*) AS m0,
  AVG(value) AS m1,
  QUANTILE_DISC(value, 0.95) AS m2
FROM samples
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1,
  2
ORDER BY
  m0 DESC,
  d0 ASC,
  d1 ASC
LIMIT 10001;

-- weighted counts, sums, means and rates
-- {"metrics": ["events", "sum_bytes_sent", "mean_duration_ms", "success_rate"], "dimensions": ["source"], "weighted": true}
SELECT
  source AS d0,
  COALESCE(SUM(weight), 0.0) AS m0,
  COALESCE(SUM(bytes_sent * weight), 0) AS m1,
  SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
    NOT duration_ms IS NULL), 0) AS m2,
  CAST(COALESCE(SUM(weight) FILTER(WHERE
    success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
    NOT success IS NULL), 0.0), 0) AS m3,
  CAST('1.959963984540054' AS DOUBLE) * SQRT(
    CASE
      WHEN COALESCE(SUM(weight * (
        weight - 1
      ) * 1.0 * 1.0), 0) < 0
      THEN 0
      ELSE COALESCE(SUM(weight * (
        weight - 1
      ) * 1.0 * 1.0), 0)
    END
  ) AS e0,
  CAST('1.959963984540054' AS DOUBLE) * SQRT(
    CASE
      WHEN COALESCE(SUM(weight * (
        weight - 1
      ) * bytes_sent * bytes_sent), 0) < 0
      THEN 0
      ELSE COALESCE(SUM(weight * (
        weight - 1
      ) * bytes_sent * bytes_sent), 0)
    END
  ) AS e1,
  CAST('1.959963984540054' AS DOUBLE) * SQRT(
    CASE
      WHEN (
        COALESCE(SUM(weight * (
          weight - 1
        ) * duration_ms * duration_ms), 0.0) - 2 * SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * duration_ms * 1.0) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0) + SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0)
      ) / NULLIF(
        COALESCE(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0) * COALESCE(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0),
        0
      ) < 0
      THEN 0
      ELSE (
        COALESCE(SUM(weight * (
          weight - 1
        ) * duration_ms * duration_ms), 0.0) - 2 * SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * duration_ms * 1.0) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0) + SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * SUM(duration_ms * weight) / NULLIF(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0)
      ) / NULLIF(
        COALESCE(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0) * COALESCE(SUM(weight) FILTER(WHERE
          NOT duration_ms IS NULL), 0.0),
        0
      )
    END
  ) AS e2,
  CAST('1.959963984540054' AS DOUBLE) * SQRT(
    CASE
      WHEN (
        COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          success), 0.0) - 2 * CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          success AND NOT success IS NULL), 0.0) + CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          NOT success IS NULL), 0.0)
      ) / NULLIF(
        COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0) * COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0),
        0
      ) < 0
      THEN 0
      ELSE (
        COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          success), 0.0) - 2 * CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          success AND NOT success IS NULL), 0.0) + CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * CAST(COALESCE(SUM(weight) FILTER(WHERE
          success), 0.0) AS DOUBLE) / NULLIF(COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0), 0) * COALESCE(SUM(weight * (
          weight - 1
        ) * 1.0 * 1.0) FILTER(WHERE
          NOT success IS NULL), 0.0)
      ) / NULLIF(
        COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0) * COALESCE(SUM(weight) FILTER(WHERE
          NOT success IS NULL), 0.0),
        0
      )
    END
  ) AS e3
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- weighted quantiles
-- {"metrics": ["p50_duration_ms", "p95_bytes_sent"], "dimensions": ["source"], "weighted": true}
WITH answer AS (
  SELECT
    d0,
    MAX(m0) AS m0,
    MAX(m1) AS m1,
    MAX(l0) AS l0,
    MAX(h0) AS h0,
    MAX(l1) AS l1,
    MAX(h1) AS h1
  FROM (
    (
      SELECT
        source AS d0,
        NULL AS m0,
        NULL AS m1,
        NULL AS l0,
        NULL AS h0,
        NULL AS l1,
        NULL AS h1
      FROM events
      WHERE
        project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
      GROUP BY
        1
    )
    UNION ALL
    (
      WITH near AS MATERIALIZED (
        SELECT
          *,
          CAST(FLOOR(SIGN(x) * LN(1 + ABS(CAST(x AS DOUBLE))) * 32) AS INT) AS bin
        FROM (
          SELECT
            source AS d0,
            duration_ms AS x,
            weight AS w
          FROM events
          WHERE
            (
              project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
            )
            AND NOT duration_ms IS NULL
        ) AS kept
      ), bins AS (
        SELECT
          d0,
          bin,
          SUM(w) AS w,
          SUM(w * (
            w - 1
          )) AS v,
          SUM(POWER(w * (
            w - 1
          ), 2)) AS u
        FROM near
        GROUP BY
          d0,
          bin
      ), run AS (
        SELECT
          *,
          SUM(w) OVER (PARTITION BY d0 ORDER BY bin) AS reached,
          SUM(v) OVER (PARTITION BY d0 ORDER BY bin) AS doubted,
          SUM(w) OVER (PARTITION BY d0) AS total,
          SUM(v) OVER (PARTITION BY d0) AS doubt,
          POWER(SUM(v) OVER (PARTITION BY d0), 2) / NULLIF(SUM(u) OVER (PARTITION BY d0), 0) AS doubtful
        FROM bins
      ), told AS (
        SELECT
          *,
          MIN(
            CASE
              WHEN 0.5 * total * 0.999999999999 <= reached
              THEN doubted - v + v * GREATEST(0.5 * total - reached + w, 0) / w
            END
          ) OVER (PARTITION BY d0) AS before0
        FROM run
      ), level AS (
        SELECT
          *,
          0.5 * total AS level0,
          CASE
            WHEN (
              doubt = 0 OR 0.5 * doubtful >= 10
            )
            AND 1.959963984540054 * SQRT(GREATEST(0.25 * before0 + 0.25 * (
              doubt - before0
            ), 0)) <= 0.5 * total
            THEN 1.959963984540054 * SQRT(GREATEST(0.25 * before0 + 0.25 * (
              doubt - before0
            ), 0))
          END AS error0
        FROM told
      ), marked AS (
        SELECT
          *
        FROM level
        WHERE
          (
            level0 * 0.999999999999 <= reached AND reached - w <= level0 * 1.000000000001
          )
          OR (
            (
              level0 - error0
            ) * 0.999999999999 <= reached AND reached - w <= (
              level0 - error0
            ) * 1.000000000001
          )
          OR (
            (
              level0 + error0
            ) * 0.999999999999 <= reached AND reached - w <= (
              level0 + error0
            ) * 1.000000000001
          )
      ), close AS (
        SELECT
          marked.d0 AS d0,
          marked.level0 AS level0,
          marked.error0 AS error0,
          near.x AS x,
          reached - marked.w + SUM(near.w) OVER (PARTITION BY near.d0, near.bin ORDER BY near.x) AS so_far
        FROM near
        JOIN marked
          ON near.bin = marked.bin AND near.d0 IS NOT DISTINCT FROM marked.d0
      )
      SELECT
        d0,
        MIN(CASE WHEN level0 * 0.99999999999 <= so_far THEN x END) AS m0,
        NULL AS m1,
        MIN(CASE WHEN (
          level0 - error0
        ) * 0.99999999999 <= so_far THEN x END) AS l0,
        MIN(CASE WHEN (
          level0 + error0
        ) * 0.99999999999 <= so_far THEN x END) AS h0,
        NULL AS l1,
        NULL AS h1
      FROM close
      GROUP BY
        d0
    )
    UNION ALL
    (
      WITH near AS MATERIALIZED (
        SELECT
          *,
          CAST(FLOOR(SIGN(x) * LN(1 + ABS(CAST(x AS DOUBLE))) * 32) AS INT) AS bin
        FROM (
          SELECT
            source AS d0,
            bytes_sent AS x,
            weight AS w
          FROM events
          WHERE
            (
              project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
            )
            AND NOT bytes_sent IS NULL
        ) AS kept
      ), bins AS (
        SELECT
          d0,
          bin,
          SUM(w) AS w,
          SUM(w * (
            w - 1
          )) AS v,
          SUM(POWER(w * (
            w - 1
          ), 2)) AS u
        FROM near
        GROUP BY
          d0,
          bin
      ), run AS (
        SELECT
          *,
          SUM(w) OVER (PARTITION BY d0 ORDER BY bin) AS reached,
          SUM(v) OVER (PARTITION BY d0 ORDER BY bin) AS doubted,
          SUM(w) OVER (PARTITION BY d0) AS total,
          SUM(v) OVER (PARTITION BY d0) AS doubt,
          POWER(SUM(v) OVER (PARTITION BY d0), 2) / NULLIF(SUM(u) OVER (PARTITION BY d0), 0) AS doubtful
        FROM bins
      ), told AS (
        SELECT
          *,
          MIN(
            CASE
              WHEN 0.95 * total * 0.999999999999 <= reached
              THEN doubted - v + v * GREATEST(0.95 * total - reached + w, 0) / w
            END
          ) OVER (PARTITION BY d0) AS before1
        FROM run
      ), level AS (
        SELECT
          *,
          0.95 * total AS level1,
          CASE
            WHEN (
              doubt = 0 OR 0.050000000000000044 * doubtful >= 10
            )
            AND 1.959963984540054 * SQRT(GREATEST(0.0025000000000000044 * before1 + 0.9025 * (
              doubt - before1
            ), 0)) <= 0.050000000000000044 * total
            THEN 1.959963984540054 * SQRT(GREATEST(0.0025000000000000044 * before1 + 0.9025 * (
              doubt - before1
            ), 0))
          END AS error1
        FROM told
      ), marked AS (
        SELECT
          *
        FROM level
        WHERE
          (
            level1 * 0.999999999999 <= reached AND reached - w <= level1 * 1.000000000001
          )
          OR (
            (
              level1 - error1
            ) * 0.999999999999 <= reached AND reached - w <= (
              level1 - error1
            ) * 1.000000000001
          )
          OR (
            (
              level1 + error1
            ) * 0.999999999999 <= reached AND reached - w <= (
              level1 + error1
            ) * 1.000000000001
          )
      ), close AS (
        SELECT
          marked.d0 AS d0,
          marked.level1 AS level1,
          marked.error1 AS error1,
          near.x AS x,
          reached - marked.w + SUM(near.w) OVER (PARTITION BY near.d0, near.bin ORDER BY near.x) AS so_far
        FROM near
        JOIN marked
          ON near.bin = marked.bin AND near.d0 IS NOT DISTINCT FROM marked.d0
      )
      SELECT
        d0,
        NULL AS m0,
        MIN(CASE WHEN level1 * 0.99999999999 <= so_far THEN x END) AS m1,
        NULL AS l0,
        NULL AS h0,
        MIN(CASE WHEN (
          level1 - error1
        ) * 0.99999999999 <= so_far THEN x END) AS l1,
        MIN(CASE WHEN (
          level1 + error1
        ) * 0.99999999999 <= so_far THEN x END) AS h1
      FROM close
      GROUP BY
        d0
    )
  ) AS parts
  GROUP BY
    d0
)
SELECT
  *
FROM answer
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- weighted quantile of a filtered property
-- {"metrics": [{"agg": "p90", "field": "properties.price", "where": ["is", "type", ["request"]]}], "weighted": true}
(
  WITH near AS MATERIALIZED (
    SELECT
      *,
      CAST(FLOOR(SIGN(x) * LN(1 + ABS(CAST(x AS DOUBLE))) * 32) AS INT) AS bin
    FROM (
      SELECT
        CASE
          WHEN JSON_TYPE(properties, '/price') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
          THEN TRY_CAST(CAST(JSON_EXTRACT(properties, '/price') AS TEXT) AS DOUBLE)
        END AS x,
        weight AS w
      FROM events
      WHERE
        (
          project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001)
        )
        AND NOT CASE
          WHEN JSON_TYPE(properties, '/price') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
          THEN TRY_CAST(CAST(JSON_EXTRACT(properties, '/price') AS TEXT) AS DOUBLE)
        END IS NULL
        AND type = 'request'
    ) AS kept
  ), bins AS (
    SELECT
      bin,
      SUM(w) AS w,
      SUM(w * (
        w - 1
      )) AS v,
      SUM(POWER(w * (
        w - 1
      ), 2)) AS u
    FROM near
    GROUP BY
      bin
  ), run AS (
    SELECT
      *,
      SUM(w) OVER (ORDER BY bin) AS reached,
      SUM(v) OVER (ORDER BY bin) AS doubted,
      SUM(w) OVER () AS total,
      SUM(v) OVER () AS doubt,
      POWER(SUM(v) OVER (), 2) / NULLIF(SUM(u) OVER (), 0) AS doubtful
    FROM bins
  ), told AS (
    SELECT
      *,
      MIN(
        CASE
          WHEN 0.9 * total * 0.999999999999 <= reached
          THEN doubted - v + v * GREATEST(0.9 * total - reached + w, 0) / w
        END
      ) OVER () AS before0
    FROM run
  ), level AS (
    SELECT
      *,
      0.9 * total AS level0,
      CASE
        WHEN (
          doubt = 0 OR 0.09999999999999998 * doubtful >= 10
        )
        AND 1.959963984540054 * SQRT(GREATEST(0.009999999999999995 * before0 + 0.81 * (
          doubt - before0
        ), 0)) <= 0.09999999999999998 * total
        THEN 1.959963984540054 * SQRT(GREATEST(0.009999999999999995 * before0 + 0.81 * (
          doubt - before0
        ), 0))
      END AS error0
    FROM told
  ), marked AS (
    SELECT
      *
    FROM level
    WHERE
      (
        level0 * 0.999999999999 <= reached AND reached - w <= level0 * 1.000000000001
      )
      OR (
        (
          level0 - error0
        ) * 0.999999999999 <= reached AND reached - w <= (
          level0 - error0
        ) * 1.000000000001
      )
      OR (
        (
          level0 + error0
        ) * 0.999999999999 <= reached AND reached - w <= (
          level0 + error0
        ) * 1.000000000001
      )
  ), close AS (
    SELECT
      marked.level0 AS level0,
      marked.error0 AS error0,
      near.x AS x,
      reached - marked.w + SUM(near.w) OVER (PARTITION BY near.bin ORDER BY near.x) AS so_far
    FROM near
    JOIN marked
      ON near.bin = marked.bin
  )
  SELECT
    MIN(CASE WHEN level0 * 0.99999999999 <= so_far THEN x END) AS m0,
    MIN(CASE WHEN (
      level0 - error0
    ) * 0.99999999999 <= so_far THEN x END) AS l0,
    MIN(CASE WHEN (
      level0 + error0
    ) * 0.99999999999 <= so_far THEN x END) AS h0
  FROM close
);

-- weighted people
-- {"metrics": ["people", "min_duration_ms", "max_duration_ms"], "weighted": true}
SELECT
  COUNT(DISTINCT COALESCE(user_id, device_id)) AS m0,
  MIN(duration_ms) AS m1,
  MAX(duration_ms) AS m2
FROM events
WHERE
  project = 'shop' AND ts >= MAKE_TIMESTAMP(1736942400000000) AND ts < MAKE_TIMESTAMP(1768478400000001);

-- rollups, and the rows that they do not have
-- {"metrics": ["events", "sum_bytes_sent"], "date_range": ["2026-01-12", "2026-01-15"], "rolled": true}
(
  WITH state AS (
    SELECT
      ts,
      n,
      v,
      bytes_sent_has,
      bytes_sent_sum,
      bytes_sent_min,
      bytes_sent_max,
      bytes_sent_v0,
      bytes_sent_v1,
      bytes_sent_v2
    FROM rolled
    WHERE
      project = 'shop'
      AND rollup = 'source'
      AND tier = 'day:UTC'
      AND ts >= MAKE_TIMESTAMP(1768176000000000)
      AND ts < MAKE_TIMESTAMP(1768348800000000)
    UNION ALL
    SELECT
      ts,
      weight AS n,
      weight * (
        weight - 1
      ) AS v,
      CASE WHEN NOT bytes_sent IS NULL THEN weight END AS bytes_sent_has,
      CASE WHEN weight = 1 THEN CAST(bytes_sent AS DECIMAL(38, 6)) ELSE CAST(weight * bytes_sent AS DECIMAL(38, 6)) END AS bytes_sent_sum,
      bytes_sent AS bytes_sent_min,
      bytes_sent AS bytes_sent_max,
      CASE WHEN NOT bytes_sent IS NULL THEN weight * (
        weight - 1
      ) END AS bytes_sent_v0,
      weight * (
        weight - 1
      ) * bytes_sent AS bytes_sent_v1,
      weight * (
        weight - 1
      ) * bytes_sent * bytes_sent AS bytes_sent_v2
    FROM events
    WHERE
      project = 'shop'
      AND ts >= MAKE_TIMESTAMP(1768176000000000)
      AND ts < MAKE_TIMESTAMP(1768348800000000)
      AND version > 4
      AND version <= 7
    UNION ALL
    SELECT
      ts,
      weight AS n,
      weight * (
        weight - 1
      ) AS v,
      CASE WHEN NOT bytes_sent IS NULL THEN weight END AS bytes_sent_has,
      CASE WHEN weight = 1 THEN CAST(bytes_sent AS DECIMAL(38, 6)) ELSE CAST(weight * bytes_sent AS DECIMAL(38, 6)) END AS bytes_sent_sum,
      bytes_sent AS bytes_sent_min,
      bytes_sent AS bytes_sent_max,
      CASE WHEN NOT bytes_sent IS NULL THEN weight * (
        weight - 1
      ) END AS bytes_sent_v0,
      weight * (
        weight - 1
      ) * bytes_sent AS bytes_sent_v1,
      weight * (
        weight - 1
      ) * bytes_sent * bytes_sent AS bytes_sent_v2
    FROM events
    WHERE
      project = 'shop'
      AND ts >= MAKE_TIMESTAMP(1768348800000000)
      AND ts < MAKE_TIMESTAMP(1768435200000000)
      AND version <= 7
  )
  SELECT
    CAST(COALESCE(SUM(n), 0.0) AS BIGINT) AS m0,
    COALESCE(CAST(SUM(bytes_sent_sum) AS INT128), 0) AS m1
  FROM state
);

-- a percentile of rollups
-- {"metrics": ["p95_duration_ms"], "date_range": ["2026-01-12", "2026-01-14"], "rolled": true}
(
  WITH state AS (
    SELECT
      ts,
      UNNEST(duration_ms_at) AS bin,
      UNNEST(duration_ms_w) AS w
    FROM rolled
    WHERE
      project = 'shop'
      AND rollup = 'source'
      AND tier = 'day:UTC'
      AND ts >= MAKE_TIMESTAMP(1768176000000000)
      AND ts < MAKE_TIMESTAMP(1768348800000000)
    UNION ALL
    SELECT
      ts,
      CASE WHEN duration_ms > 0 THEN CAST(CEIL(LN(duration_ms) / 0.019800646904042287) AS INT) ELSE -100000 END AS bin,
      weight AS w
    FROM events
    WHERE
      project = 'shop'
      AND ts >= MAKE_TIMESTAMP(1768176000000000)
      AND ts < MAKE_TIMESTAMP(1768348800000000)
      AND version > 4
      AND version <= 7
      AND NOT duration_ms IS NULL
  ), bins AS (
    SELECT
      bin,
      SUM(w) AS w
    FROM state
    GROUP BY
      1
  ), run AS (
    SELECT
      *,
      SUM(w) OVER (ORDER BY bin) AS reached,
      SUM(w) OVER () AS total
    FROM bins
  )
  SELECT
    CASE
      WHEN MIN(CASE WHEN reached >= 0.9499999999990499 * total THEN bin END) = -100000
      THEN 0
      ELSE EXP(
        CAST(MIN(CASE WHEN reached >= 0.9499999999990499 * total THEN bin END) AS DOUBLE) * 0.019800646904042287 + -0.009949330853668103
      )
    END AS m0
  FROM run
);

-- people of rollups by source
-- {"metrics": ["people"], "dimensions": ["source"], "date_range": ["2026-01-12T06:15:00Z", "2026-01-14T00:00:00Z"], "rolled": true}
WITH answer AS (
  SELECT
    d0,
    COALESCE(MAX(m0), 0) AS m0
  FROM (
    (
      WITH state AS (
        SELECT
          ts,
          source,
          weight AS n,
          weight * (
            weight - 1
          ) AS v
        FROM events
        WHERE
          project = 'shop'
          AND ts >= MAKE_TIMESTAMP(1768198500000000)
          AND ts < MAKE_TIMESTAMP(1768201200000000)
          AND version <= 7
        UNION ALL
        SELECT
          ts,
          source,
          n,
          v
        FROM rolled
        WHERE
          project = 'shop'
          AND rollup = 'source'
          AND tier = 'hour'
          AND ts >= MAKE_TIMESTAMP(1768201200000000)
          AND ts < MAKE_TIMESTAMP(1768262400000000)
        UNION ALL
        SELECT
          ts,
          source,
          n,
          v
        FROM rolled
        WHERE
          project = 'shop'
          AND rollup = 'source'
          AND tier = 'day:UTC'
          AND ts >= MAKE_TIMESTAMP(1768262400000000)
          AND ts < MAKE_TIMESTAMP(1768348800000000)
        UNION ALL
        SELECT
          ts,
          source,
          weight AS n,
          weight * (
            weight - 1
          ) AS v
        FROM events
        WHERE
          project = 'shop'
          AND ts >= MAKE_TIMESTAMP(1768201200000000)
          AND ts < MAKE_TIMESTAMP(1768348800000000)
          AND version > 4
          AND version <= 7
      )
      SELECT
        source AS d0,
        NULL AS m0
      FROM state
      GROUP BY
        1
    )
    UNION ALL
    (
      WITH state AS (
        SELECT
          MAKE_TIMESTAMP(day * 86400000000) AS ts,
          source,
          person
        FROM activity
        WHERE
          project = 'shop' AND day >= 20466 AND day < 20467
        UNION ALL
        SELECT
          MAKE_TIMESTAMP(c.us) AS ts,
          source,
          person
        FROM activity AS a
        JOIN (VALUES
          (20465, 1768198500000000, 281474943156224, 281474976710655)) AS c(on_day, us, lows, highs)
          ON a.day = c.on_day AND (
            (
              a.low & c.lows
            ) <> 0 OR (
              a.high & c.highs
            ) <> 0
          )
        WHERE
          project = 'shop' AND day >= 20465 AND day <= 20465
        UNION ALL
        SELECT
          ts,
          source,
          COALESCE(number, -DENSE_RANK() OVER (ORDER BY f.actor)) AS person
        FROM (
          SELECT
            ts,
            source,
            COALESCE(user_id, device_id) AS actor
          FROM events
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768198500000000)
            AND ts < MAKE_TIMESTAMP(1768348800000000)
            AND version > 4
            AND version <= 7
          UNION ALL
          SELECT
            ts,
            source,
            actor
          FROM sightings
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768198500000000)
            AND ts < MAKE_TIMESTAMP(1768348800000000)
            AND version > 4
            AND version <= 7
        ) AS f
        LEFT JOIN (
          SELECT
            number,
            actor
          FROM people
          WHERE
            project = 'shop'
            AND actor IN (
              SELECT
                actor
              FROM (
                SELECT
                  ts,
                  source,
                  COALESCE(user_id, device_id) AS actor
                FROM events
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768198500000000)
                  AND ts < MAKE_TIMESTAMP(1768348800000000)
                  AND version > 4
                  AND version <= 7
                UNION ALL
                SELECT
                  ts,
                  source,
                  actor
                FROM sightings
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768198500000000)
                  AND ts < MAKE_TIMESTAMP(1768348800000000)
                  AND version > 4
                  AND version <= 7
              ) AS k
            )
        ) AS p
          ON p.actor = f.actor
        WHERE
          NOT f.actor IS NULL
      )
      SELECT
        source AS d0,
        COUNT(DISTINCT person) AS m0
      FROM state
      GROUP BY
        1
    )
  ) AS parts
  GROUP BY
    d0
)
SELECT
  *
FROM answer
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;

-- people of rollups by day
-- {"metrics": ["people"], "dimensions": ["time:day"], "date_range": ["2026-01-12", "2026-01-15"], "rolled": true}
(
  WITH state AS (
    SELECT
      MAKE_TIMESTAMP(day * 86400000000) AS ts,
      COUNT(*) AS seen
    FROM active_days
    WHERE
      project = 'shop' AND (
        day >= 20465 AND day < 20467
      )
    GROUP BY
      day
    UNION ALL
    SELECT
      MAKE_TIMESTAMP(day * 86400000000) AS ts,
      COUNT(*) AS seen
    FROM (
      SELECT DISTINCT
        DIVIDE(EPOCH_US(ts), 86400000000) AS day,
        person
      FROM (
        SELECT
          ts,
          COALESCE(number, -DENSE_RANK() OVER (ORDER BY f.actor)) AS person
        FROM (
          SELECT
            ts,
            COALESCE(user_id, device_id) AS actor
          FROM events
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768176000000000)
            AND ts < MAKE_TIMESTAMP(1768348800000000)
            AND version > 4
            AND version <= 7
          UNION ALL
          SELECT
            ts,
            actor
          FROM sightings
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768176000000000)
            AND ts < MAKE_TIMESTAMP(1768348800000000)
            AND version > 4
            AND version <= 7
          UNION ALL
          SELECT
            ts,
            COALESCE(user_id, device_id) AS actor
          FROM events
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768348800000000)
            AND ts < MAKE_TIMESTAMP(1768435200000000)
            AND version <= 7
          UNION ALL
          SELECT
            ts,
            actor
          FROM sightings
          WHERE
            project = 'shop'
            AND ts >= MAKE_TIMESTAMP(1768348800000000)
            AND ts < MAKE_TIMESTAMP(1768435200000000)
            AND version <= 7
        ) AS f
        LEFT JOIN (
          SELECT
            number,
            actor
          FROM people
          WHERE
            project = 'shop'
            AND actor IN (
              SELECT
                actor
              FROM (
                SELECT
                  ts,
                  COALESCE(user_id, device_id) AS actor
                FROM events
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768176000000000)
                  AND ts < MAKE_TIMESTAMP(1768348800000000)
                  AND version > 4
                  AND version <= 7
                UNION ALL
                SELECT
                  ts,
                  actor
                FROM sightings
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768176000000000)
                  AND ts < MAKE_TIMESTAMP(1768348800000000)
                  AND version > 4
                  AND version <= 7
                UNION ALL
                SELECT
                  ts,
                  COALESCE(user_id, device_id) AS actor
                FROM events
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768348800000000)
                  AND ts < MAKE_TIMESTAMP(1768435200000000)
                  AND version <= 7
                UNION ALL
                SELECT
                  ts,
                  actor
                FROM sightings
                WHERE
                  project = 'shop'
                  AND ts >= MAKE_TIMESTAMP(1768348800000000)
                  AND ts < MAKE_TIMESTAMP(1768435200000000)
                  AND version <= 7
              ) AS k
            )
        ) AS p
          ON p.actor = f.actor
        WHERE
          NOT f.actor IS NULL
      ) AS late
    ) AS o
    LEFT JOIN (
      SELECT
        day AS on_day,
        person AS known
      FROM active_days
      WHERE
        project = 'shop' AND (
          day >= 20465 AND day < 20467
        )
    ) AS a
      ON a.on_day = o.day AND a.known = o.person
    WHERE
      a.known IS NULL
    GROUP BY
      day
  )
  SELECT
    (
      EPOCH_US(ts)
    ) // 86400000000 AS d0,
    CAST(SUM(seen) AS BIGINT) AS m0
  FROM state
  GROUP BY
    1
);

-- people of the seven days that end with each
-- {"metrics": ["people"], "dimensions": ["time:day"], "date_range": ["2026-01-12", "2026-01-15"], "window": 7}
WITH seen AS (
  SELECT DISTINCT
    (
      EPOCH_US(ts)
    ) // 86400000000 AS day,
    COALESCE(user_id, device_id) AS person
  FROM events
  WHERE
    project = 'shop' AND ts >= MAKE_TIMESTAMP(1768176000000000) AND ts < MAKE_TIMESTAMP(1768435200000000)
), spans AS (
  SELECT
    day,
    LEAST(day + 7, LEAD(NULLIF(day, NULL)) OVER (PARTITION BY person ORDER BY day)) AS until
  FROM seen
  WHERE
    NOT person IS NULL
), moves AS (
  SELECT
    day,
    1 AS n
  FROM spans
  UNION ALL
  SELECT
    until AS day,
    -1 AS n
  FROM spans
)
SELECT
  day,
  CAST(SUM(n) AS BIGINT)
FROM moves
GROUP BY
  day
ORDER BY
  day;

-- text that looks like SQL
-- {"metrics": [{"agg": "count", "as": "'; --"}], "dimensions": ["properties.'; DROP TABLE events; --"], "filters": [["is", "type", ["'; DROP TABLE events; --", "\\' OR 1=1 --"]]]}
SELECT
  CASE
    WHEN CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) >= '#'
    THEN CASE
      WHEN CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) = 'null'
      THEN NULL
      WHEN JSON_TYPE(properties, '/''; DROP TABLE events; --') = 'DOUBLE'
      AND ABS(TRY_CAST(CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) AS DOUBLE)) < 9007199254740992
      AND FLOOR(TRY_CAST(CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) AS DOUBLE)) = TRY_CAST(CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) AS DOUBLE)
      THEN CAST(CAST(TRY_CAST(CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT) AS DOUBLE) AS BIGINT) AS TEXT)
      ELSE CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT)
    END
    ELSE CAST(JSON_EXTRACT(properties, '/''; DROP TABLE events; --') AS TEXT)
  END AS d0,
  COUNT(*) AS m0
FROM events
WHERE
  project = 'shop'
  AND ts >= MAKE_TIMESTAMP(1736942400000000)
  AND ts < MAKE_TIMESTAMP(1768478400000001)
  AND type IN ('''; DROP TABLE events; --', '\'' OR 1=1 --')
GROUP BY
  1
ORDER BY
  m0 DESC,
  d0 ASC
LIMIT 10001;
