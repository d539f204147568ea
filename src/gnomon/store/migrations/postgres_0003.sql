-- What copies and backups read by: a slice of a table is a stretch of its key over all projects (gnomon.store.carrying),
-- and without an index each slice reads the whole table. Programs that know an earlier schema go on.
-- Whoever changes the store holds this row, so nobody is in the middle of a change, which could be waited for in a circle.
SELECT FROM state WHERE key = 'version' FOR UPDATE;
-- Nearly in the order of the rows: of pages that hold old rows beside new ones, several stretches are remembered.
CREATE INDEX IF NOT EXISTS samples_by_key ON samples USING brin (version int8_minmax_multi_ops)
  WITH (autosummarize = on, pages_per_range = 32);
CREATE INDEX IF NOT EXISTS sightings_by_key ON sightings USING brin (version int8_minmax_multi_ops)
  WITH (autosummarize = on, pages_per_range = 32);
-- Rows of many projects lie here in no order of the key.
CREATE INDEX IF NOT EXISTS rolled_by_key ON rolled (ts);
CREATE INDEX IF NOT EXISTS activity_by_key ON activity (day);
CREATE INDEX IF NOT EXISTS active_days_by_key ON active_days (day);
CREATE INDEX IF NOT EXISTS people_by_key ON people (number);
UPDATE state SET value = '3' WHERE key = 'schema';
