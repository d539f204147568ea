-- The id that a sender gave a sample, so that a resend counts once; NULL: it has none, and always counts.
ALTER TABLE samples ADD COLUMN id VARCHAR;
