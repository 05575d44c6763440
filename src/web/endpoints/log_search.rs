//! `GET /api/runs/<id>/log/search`: the lines of a run's log that contain a text or match an expression, part by part.

use rouille::{Request, Response};

use super::runs::run_id_of;
use crate::api::logs::{LogSearchQuery, LogSearchResponse, MATCHES_DEFAULT};
use crate::log::{BadPattern, Found, Pattern, SEARCH_TURN, Search};
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::long_bytes;

impl App {
    pub(in crate::web) fn search_log(&self, request: &Request, id: &str) -> Result<Response, ApiError> {
        let run_id = run_id_of(id)?;
        let LogSearchQuery { text, regex, case, stream, since, limit } = input::query(request)?;
        let pattern = pattern(text.as_deref(), regex.as_deref(), case.unwrap_or(false))?;
        let span = self.run_span(run_id)?;
        let search = Search {
            since: since.unwrap_or(0).max(span.begin),
            end: span.end,
            stream: stream.map(Into::into),
            pattern: &pattern,
            limit: usize::try_from(limit.unwrap_or(MATCHES_DEFAULT)).expect("at most MATCHES_MAX"),
        };
        let Found { matches, count, lines, next, is_at_end } = search.run(&self.logs.of_run(run_id), SEARCH_TURN)?;
        let response = LogSearchResponse { matches, count, searched_all: is_at_end, next, lines };
        Ok(self.budget.json(request, long_bytes(&response)))
    }
}

fn pattern(text: Option<&str>, regex: Option<&str>, counts_case: bool) -> Result<Pattern, ApiError> {
    let bad = |key: &str, error: &BadPattern| ApiError::BadQuery(format!("{key}: {error}"));
    match (text, regex) {
        (Some(text), None) if text.contains('\n') => {
            Err(ApiError::BadQuery("text is searched for within single lines; leave out the line break (%0A)".to_owned()))
        }
        (Some(text), None) => Pattern::text(text, counts_case).map_err(|error| bad("text", &error)),
        (None, Some(regex)) => Pattern::expression(regex, counts_case).map_err(|error| bad("regex", &error)),
        _ => Err(ApiError::BadQuery("give either text or regex".to_owned())),
    }
}
