-- What held a run's processes together. Null for a run that never came to life, and for those from before it was written down.
ALTER TABLE pipeline_runs ADD COLUMN containment TEXT CHECK (containment IN ('cgroup', 'tree'));
