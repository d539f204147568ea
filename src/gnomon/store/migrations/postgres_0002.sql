-- The id that a sender gave a sample, so that a resend counts once; NULL: it has none, and always counts.
-- Programs that know the first schema only go on: they write samples without one.
ALTER TABLE samples ADD COLUMN id text COLLATE "C";
CREATE INDEX samples_by_id ON samples (project, id) WHERE id IS NOT NULL;
UPDATE state SET value = '2' WHERE key = 'schema';
