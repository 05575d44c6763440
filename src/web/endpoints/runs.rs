//! `GET /api/runs` and `GET /api/runs/<id>`: the history.

use rouille::{Request, Response};
use serde::Serialize;
use serde_json::json;

use crate::pipeline::Progress;
use crate::run_dir;
use crate::store::{Reader, RunRow};
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::{json, long_bytes};

/// The most runs of one answer, and how many where no number is named.
const RUNS_MAX: u64 = 500;
const RUNS_DEFAULT: u64 = 50;

impl App {
    pub(in crate::web) fn runs(&self, request: &Request) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Runs<R> {
            runs: R,
            next_before: Option<i64>,
        }
        let limit = input::query_number(request, "limit", 1, RUNS_MAX)?.unwrap_or(RUNS_DEFAULT);
        let before = input::query_number(request, "before", 1, i64::MAX as u64)?.and_then(|id| i64::try_from(id).ok());
        let limit = u32::try_from(limit).expect("at most RUNS_MAX");
        let reader = Reader::open(&self.database)?;
        let runs = reader.runs(before, limit)?;
        // A page can be short without being the last one.
        let next_before = match runs.last() {
            Some(last) if !reader.runs(Some(last.id), 1)?.is_empty() => Some(last.id),
            Some(_) | None => None,
        };
        Ok(self.budget.json(long_bytes(&Runs { runs, next_before })))
    }

    pub(in crate::web) fn run(&self, id: &str) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Whole<R, E> {
            #[serde(flatten)]
            run: R,
            progress: Option<Progress>,
            events: E,
        }
        let number = id.parse::<i64>().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()));
        let found = match number {
            Some(number) => Reader::open(&self.database)?.run(number)?,
            None => None,
        };
        let (run, events) = found.ok_or_else(|| ApiError::NoSuchRun(id.to_owned()))?;
        let progress = self.progress(&run);
        Ok(json(&json!({"run": Whole { run, progress, events }})))
    }

    /// How far a run is or came: the latest one's is known, of the others there is what their shims stored.
    pub(in crate::web) fn progress(&self, run: &RunRow) -> Option<Progress> {
        let published = self.supervisor.watch().get();
        // Between the commit of its end and the publication only its shim has said how that left it: it stored that before.
        let is_published = run.status.is_live() || published.snapshot.run_ended_at.is_some();
        if published.snapshot.run_id == Some(run.id) && is_published {
            return published.snapshot.progress.clone();
        }
        let stored = run_dir::read_progress(&self.runs.run(run.id).progress_path()).unwrap_or_else(|error| {
            ::log::warn!("run {}: how far it came is not known: failed to {error}", run.id);
            None
        });
        let ended_at = run.stopped_at.filter(|_| !run.status.is_live());
        stored.map(|told| told.progress.shown(ended_at))
    }
}
