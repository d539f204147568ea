-- When somebody was there to record: spans in UTC, both ends included. A span that goes on gets a longer row beside the
-- one before; a checkpoint leaves the longest. What lies between the spans of a project was not collected; before its
-- first one nothing is known.
CREATE TABLE alive (project VARCHAR NOT NULL, first TIMESTAMP NOT NULL, last TIMESTAMP NOT NULL);
