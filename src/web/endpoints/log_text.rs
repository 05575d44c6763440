//! `GET /api/runs/<id>/log`: what a run said, as text to be looked at or downloaded.
//!
//! Nothing of it is held: it is read from the disk as fast as its client takes it. Where something goes meanwhile the connection ends before
//! the length that was promised, without the last chunk, or broken (HTTP/1.0): no client takes that for the whole.

use std::io::{self, Read};

use rouille::{Request, Response, ResponseBody};

use super::runs::run_id_of;
use crate::api::logs::{LogTextQuery, StreamName};
use crate::log::{Form, RunText, Said, Stream};
use crate::web::app::App;
use crate::web::downloads::Place;
use crate::web::error::ApiError;
use crate::web::{etag, input};

/// The text of a run of which nobody knows how much it said, when nothing of that is there.
const NOTHING_LEFT: &str = "[autoappdev: nothing of this log is there any more]\n";

/// A body on its way, with its place.
struct Body<R> {
    run_id: i64,
    reader: R,
    _place: Place,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|error| ::log::warn!("the text of run {}'s log ends early: {error}", self.run_id))
    }
}

impl App {
    pub(in crate::web) fn log_text(&self, request: &Request, id: &str) -> Result<Response, ApiError> {
        let run_id = run_id_of(id)?;
        let LogTextQuery { timestamps, stream, download } = input::query(request)?;
        let stream = stream.map(|stream| match stream {
            StreamName::Stdout => Stream::Stdout,
            StreamName::Stderr => Stream::Stderr,
        });
        let place = self.budget.downloads().take_place()?;

        let span = self.run_span(run_id)?;
        let text = RunText::look(&self.logs.of_run(run_id), span.begin, span.end)?;
        let form = Form { has_heads: timestamps.unwrap_or(true), stream };
        let mut response = Response::text(NOTHING_LEFT);
        if download == Some(true) {
            let disposition = format!("attachment; filename=\"{}\"", file_name(run_id, form));
            response = response.with_unique_header("Content-Disposition", disposition);
        }
        if span.is_end_unknown && text.has_nothing() {
            return Ok(response);
        }
        let (up_to, missing) = text.version();
        let suffix = form_suffix(form);
        // The same for as long as the text is; the time is for a run of the same number in another database.
        let tag = format!("\"{run_id}-{:x}-{up_to:x}-{missing:x}{suffix}\"", span.created_at.unix_ms());
        let response = response.with_unique_header("AutoAppDev-Log-Gone", text.gone().to_string());
        let response = etag::with_tag(response, request, &tag);
        if response.status_code == 304 {
            return Ok(response);
        }
        let data = if form.has_heads && stream.is_none() {
            let len = usize::try_from(text.byte_count());
            let body = Body { run_id, reader: text.into_reader(), _place: place };
            // Longer than the memory of this machine could be: sent without its length.
            match len {
                Ok(len) => ResponseBody::from_reader_and_size(body, len),
                Err(_) => ResponseBody::from_reader(body),
            }
        } else {
            // Its length is known only after all of it was read.
            ResponseBody::from_reader(Body { run_id, reader: Said::new(&text, form), _place: place })
        };
        Ok(Response { data, ..response })
    }
}

/// The name under which it is saved: each form has its own, so that one is not taken for another, nor saved over it.
fn file_name(run_id: i64, form: Form) -> String {
    format!("run-{run_id}{}.log", form_suffix(form))
}

/// What tells the forms of a log apart; nothing for the records as they are.
fn form_suffix(form: Form) -> &'static str {
    match (form.has_heads, form.stream) {
        (true, None | Some(Stream::Backend)) => "",
        (true, Some(Stream::Stdout)) => "-stdout",
        (true, Some(Stream::Stderr)) => "-stderr",
        (false, None | Some(Stream::Backend)) => "-plain",
        (false, Some(Stream::Stdout)) => "-stdout-plain",
        (false, Some(Stream::Stderr)) => "-stderr-plain",
    }
}
