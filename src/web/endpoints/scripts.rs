//! `GET /api/pipeline/scripts`: the scripts that can be started.

use std::cmp::Reverse;
use std::collections::HashMap;

use rouille::{Request, Response};

use crate::api::scripts::{Script, ScriptsQuery, ScriptsResponse};
use crate::pipeline::usual_ms;
use crate::script::{self, LIST_LIMIT, Wanted};
use crate::store::Reader;
use crate::supervisor::ActionError;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::long_bytes;

/// The maximum number of scripts in one response.
const SCRIPTS_MAX: usize = 500;

/// How many of the latest runs are read.
const RUNS_SEARCHED_MAX: u32 = 2000;

/// How many completed runs determine how long a script usually takes.
const USUAL_RUNS: usize = 5;

impl App {
    pub(in crate::web) fn scripts(&self, request: &Request) -> Result<Response, ApiError> {
        let ScriptsQuery { find } = input::query(request)?;
        let search_path = std::env::var_os("PATH");
        let wanted = Wanted {
            find: find.as_deref(),
            left_out: self.runs.runtime_dir(),
            search_path: search_path.as_deref(),
            limit: LIST_LIMIT,
        };
        let root = script::find_root(&self.pipeline_root).map_err(ActionError::from)?;
        let listing = script::list_scripts(&root, &wanted).map_err(ActionError::from)?;
        let mut scripts: Vec<Script> = listing
            .scripts
            .into_iter()
            .map(|script::Listed { path, size, modified_at, run_by }| Script {
                path,
                size,
                modified_at,
                run_by,
                runs: 0,
                usual_ms: None,
                last_run_id: None,
            })
            .collect();
        self.add_runs(&mut scripts)?;
        scripts.sort_by(|a, b| {
            let order = |script: &Script| Reverse((script.last_run_id, script.modified_at));
            order(a).cmp(&order(b)).then_with(|| a.path.cmp(&b.path))
        });
        let truncated = listing.is_cut || scripts.len() > SCRIPTS_MAX;
        scripts.truncate(SCRIPTS_MAX);
        let answer = ScriptsResponse { root: root.display().to_string(), scripts, truncated };
        Ok(self.budget.json(request, long_bytes(&answer)))
    }

    /// Adds what the history contains about each script.
    fn add_runs(&self, scripts: &mut [Script]) -> Result<(), ApiError> {
        let mut by_path: HashMap<String, (&mut Script, Vec<u64>)> =
            scripts.iter_mut().map(|script| (script.path.clone(), (script, Vec::new()))).collect();
        Reader::open(&self.database)?.latest_runs(RUNS_SEARCHED_MAX, |run| {
            if let Some((script, completed)) = by_path.get_mut(run.script) {
                script.runs += 1;
                script.last_run_id = script.last_run_id.or(Some(run.id));
                if completed.len() < USUAL_RUNS {
                    completed.extend(run.completed_in_ms()?);
                }
            }
            Ok(())
        })?;
        for (script, completed) in by_path.into_values() {
            script.usual_ms = usual_ms(completed);
        }
        Ok(())
    }
}
