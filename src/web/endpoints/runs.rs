//! `GET /api/runs`, `GET /api/runs/<id>` and `GET /api/runs/<id>/start`: the history, and the parameters of a start.
//! `GET /api/runs/<id>/usage`: the resources that a run used.

use std::thread;
use std::time::Duration;

use rouille::{Request, Response};

use crate::api::runs::{
    Kept, Run, RunDetails, RunResponse, RunStart, RunStartResponse, RunUsage, RunsQuery, RunsResponse, Sample, UsagePeak,
    UsageResponse,
};
use crate::pipeline::{Progress, UsageSample, usual_ms};
use crate::process::memory_total;
use crate::run_dir;
use crate::store::{Reader, RunFilter, RunRow, RunsPage};
use crate::supervisor::Published;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::long_bytes;

/// How many runs a response has if the request sets no number.
const RUNS_DEFAULT: u64 = 50;

/// How long to wait for the publication of a committed end, which follows the commit at once.
const PUBLICATION_LIMIT: Duration = Duration::from_secs(1);

impl App {
    pub(in crate::web) fn runs(&self, request: &Request) -> Result<Response, ApiError> {
        let RunsQuery { limit, before, outcome, find } = input::query(request)?;
        let limit = u32::try_from(limit.unwrap_or(RUNS_DEFAULT)).expect("at most RUNS_MAX");
        let filter = RunFilter::new(outcome, find.as_deref());
        let page = Reader::open(&self.database)?.runs(before.map(u64::cast_signed), limit, &filter)?;
        let RunsPage { runs, next_before, searched_all, counts } = page;
        let runs = runs.into_iter().map(|row| row.run).collect();
        Ok(self.budget.json(request, long_bytes(&RunsResponse { runs, next_before, searched_all, counts })))
    }

    pub(in crate::web) fn run(&self, request: &Request, id: &str) -> Result<Response, ApiError> {
        let number = run_id_of(id)?;
        let reader = Reader::open(&self.database)?;
        let (run, events) = reader.run(number)?.ok_or_else(|| ApiError::NoSuchRun(id.to_owned()))?;
        let completed = reader.completed_before(&run.script, number)?;
        drop(reader);
        let progress = self.progress(&run);
        let usual_ms = usual_ms(completed.iter().map(|run| run.active_ms).collect());
        let previous = completed.first().copied();
        let run = RunDetails { run: run.run, progress, previous, usual_ms, events };
        Ok(self.budget.json(request, long_bytes(&RunResponse { run })))
    }

    pub(in crate::web) fn run_start(&self, id: &str) -> Result<Response, ApiError> {
        Ok(self.budget.secret_json(long_bytes(&self.start_of(run_id_of(id)?)?)))
    }

    /// Returns the parameters with which a run was started, as far as they were kept.
    pub(super) fn start_of(&self, run_id: i64) -> Result<RunStartResponse, ApiError> {
        let row = Reader::open(&self.database)?.run_alone(run_id)?.ok_or_else(|| ApiError::NoSuchRun(run_id.to_string()))?;
        let values = run_dir::read_kept_env(&self.runs.run(run_id).start_path()).unwrap_or_else(|error| {
            ::log::warn!("run {run_id}: the values of the variables of its start cannot be read: failed to {error}");
            None
        });
        let kept = if values.is_some() { Kept::Values } else { Kept::Names };
        let mut values = values.unwrap_or_default();
        let Run { script, args, env_names, grace_ms, .. } = row.run;
        let start = RunStart {
            script,
            args,
            cwd: row.start_cwd,
            env: env_names
                .into_iter()
                .map(|name| (values.remove(&name)).map_or((name.clone(), None), |value| (name, Some(value))))
                .collect(),
            grace_s: grace_ms.map(|ms| Duration::from_millis(ms).as_secs_f64()),
        };
        Ok(RunStartResponse { start, kept })
    }

    pub(in crate::web) fn run_usage(&self, request: &Request, id: &str) -> Result<Response, ApiError> {
        let number = run_id_of(id)?;
        let run = Reader::open(&self.database)?.run_row(number)?.ok_or_else(|| ApiError::NoSuchRun(id.to_owned()))?;
        if run.status.is_live() {
            self.supervisor.look_once();
        }
        let stored = run_dir::read_usage(&self.runs.run(run.id).usage_path()).unwrap_or_else(|error| {
            ::log::warn!("run {}: its usage is unknown: failed to read its file `usage`: {error}", run.id);
            None
        });
        let (interval_ms, samples) = stored.map_or((0, Vec::new()), |stored| (stored.interval_ms, stored.samples));
        let before = std::iter::once(&UsageSample::START).chain(&samples);
        let samples: Vec<Sample> = samples
            .iter()
            .zip(before)
            .map(|(sample, before)| Sample(sample.at_ms, sample.cpu_since(before), sample.memory_bytes, sample.processes))
            .collect();
        let peak = UsagePeak {
            cpu_percent: samples.iter().map(|sample| sample.1).max(),
            memory_bytes: samples.iter().map(|sample| sample.2).max().max(run.memory_peak_bytes),
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (memory_total, oom_kills) = (memory_total(), run.oom_kills.unwrap_or(0));
        let usage = RunUsage { interval_ms, samples, peak, cores, memory_total, oom_kills };
        Ok(self.budget.json(request, long_bytes(&UsageResponse { usage })))
    }

    /// Returns the progress of a run. That of the latest run is known; for the others there is what their shims stored.
    fn progress(&self, run: &RunRow) -> Option<Progress> {
        let watch = self.supervisor.watch();
        let is_of_run = |published: &Published| published.snapshot.run_id == Some(run.id);
        let has_its_end = |published: &Published| run.status.is_live() || published.snapshot.run_ended_at.is_some();
        let mut published = watch.get();
        if is_of_run(&published) && !has_its_end(&published) {
            // The end was read from the database before it was published. The progress that the shim stored can be older, if the
            // disk was full.
            published = watch.wait_newer(published.snapshot.version, PUBLICATION_LIMIT, &|| false);
        }
        if is_of_run(&published) && has_its_end(&published) {
            return published.snapshot.progress.clone();
        }
        let stored = run_dir::read_progress(&self.runs.run(run.id).progress_path()).unwrap_or_else(|error| {
            ::log::warn!("run {}: its progress is unknown: failed to {error}", run.id);
            None
        });
        let ended_at = run.stopped_at.filter(|_| !run.status.is_live());
        stored.map(|told| told.progress.shown(ended_at))
    }
}

/// Parses the id in a path. Any other text names no run.
pub(super) fn run_id_of(text: &str) -> Result<i64, ApiError> {
    let id = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    id.ok_or_else(|| ApiError::NoSuchRun(text.to_owned()))
}
