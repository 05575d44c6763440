-- What was killed at the end of a run: a JSON array of the first of them, each with its pid and its name, and how many there were in all.
-- Null where nothing was killed.
ALTER TABLE pipeline_events ADD COLUMN killed TEXT CHECK (json_valid(killed) AND json_type(killed) = 'array');
ALTER TABLE pipeline_events ADD COLUMN killed_count INTEGER CHECK (killed_count > 0);

-- The same for the run as a whole.
ALTER TABLE pipeline_runs ADD COLUMN killed TEXT CHECK (json_valid(killed) AND json_type(killed) = 'array');
ALTER TABLE pipeline_runs ADD COLUMN killed_count INTEGER CHECK (killed_count > 0);
