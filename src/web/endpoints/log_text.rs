//! `GET /api/runs/<id>/log`: what a run said, as text to be looked at or downloaded.
//!
//! Nothing of it is held: it is read from the disk as fast as its client takes it. Where something goes meanwhile the connection ends before
//! the length that was promised, without the last chunk, or broken (HTTP/1.0): no client takes that for the whole.

use std::io::{self, Read};
use std::sync::Arc;

use rouille::{Request, Response, ResponseBody};

use super::runs::run_id_of;
use crate::api::logs::LogTextQuery;
use crate::log::{Form, RunText, Said};
use crate::transport::Client;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::{etag, input};

/// The text of a run of which nobody knows how much it said, when nothing of that is there.
const NOTHING_LEFT: &str = "[autoappdev: this log was removed]\n";

/// A body on its way, with its place.
struct Body<R> {
    run_id: i64,
    reader: R,
    _place: Arc<()>,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                ::log::warn!("the text of run {}'s log ends early: {error}", self.run_id);
            }
        })
    }
}

impl App {
    pub(in crate::web) fn log_text(&self, request: &Request, id: &str, client: &Client<'_>) -> Result<Response, ApiError> {
        let run_id = run_id_of(id)?;
        let LogTextQuery { timestamps, stream, download, proof: _ } = input::query(request)?;
        let place = self.budget.begin_download(client)?;

        let span = self.run_span(run_id)?;
        let text = RunText::look(&self.logs.of_run(run_id), span.begin, span.end)?;
        let has_heads = timestamps.unwrap_or(true);
        // What tells the forms of a log apart; nothing for the records as they are.
        let mut form = stream.map_or_else(String::new, |stream| format!("-{stream}"));
        if !has_heads {
            form.push_str("-plain");
        }
        let mut response = Response::text(NOTHING_LEFT);
        if download == Some(true) {
            // Each form is saved under a name of its own, so that none is taken for another, nor saved over it.
            let disposition = format!("attachment; filename=\"run-{run_id}{form}.log\"");
            response = response.with_unique_header("Content-Disposition", disposition);
        }
        if span.is_end_unknown && text.has_nothing() {
            return Ok(response);
        }
        let (up_to, missing) = text.version();
        // The same for as long as the text is; the time is for a run of the same number in another database.
        let tag = format!("\"{run_id}-{:x}-{up_to:x}-{missing:x}{form}\"", span.created_at.unix_ms());
        let response = response.with_unique_header("AutoAppDev-Log-Gone", text.gone().to_string());
        let response = etag::with_tag(response, request, &tag);
        if response.status_code == 304 {
            return Ok(response);
        }
        let data = if has_heads && stream.is_none() {
            let len = usize::try_from(text.byte_count());
            let body = Body { run_id, reader: text.into_reader(), _place: place };
            // Longer than the memory of this machine could be: sent without its length.
            match len {
                Ok(len) => ResponseBody::from_reader_and_size(body, len),
                Err(_) => ResponseBody::from_reader(body),
            }
        } else {
            // Its length is known only after all of it was read.
            let form = Form { has_heads, stream: stream.map(Into::into) };
            ResponseBody::from_reader(Body { run_id, reader: Said::new(&text, form), _place: place })
        };
        Ok(Response { data, ..response })
    }
}
