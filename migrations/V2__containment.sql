-- What holds, or held, a run's processes together; null while it was not seen to run.
ALTER TABLE pipeline_runs ADD COLUMN containment TEXT CHECK (containment IN ('cgroup', 'tree'));

-- Until now there was only one way.
UPDATE pipeline_runs SET containment = 'tree' WHERE pid IS NOT NULL;
