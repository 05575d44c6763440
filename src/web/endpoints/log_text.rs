//! `GET /api/runs/<id>/log`: the log of a run as text, to be viewed or downloaded.
//!
//! The text is not held in memory: it is read from the disk as fast as its client receives it. If a part of it is removed
//! meanwhile, the connection ends before the announced length, without the last chunk, or with a reset (HTTP/1.0). So no client
//! takes a part for the whole.

use std::io::{self, Read};
use std::sync::Arc;

use rouille::{Request, Response, ResponseBody};

use super::runs::run_id_of;
use crate::api::logs::LogTextQuery;
use crate::log::{Form, RunOutput, RunText};
use crate::transport::Client;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::{etag, input};

/// The text of a run whose amount of output is unknown, if nothing of it is left.
const NOTHING_LEFT: &str = "[autoappdev: this log was removed]\n";

/// The body of a download, with the place that it occupies.
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
        // The suffix that distinguishes the forms of a log. It is empty for the unchanged records.
        let mut form = stream.map_or_else(String::new, |stream| format!("-{stream}"));
        if !has_heads {
            form.push_str("-plain");
        }
        let mut response = Response::text(NOTHING_LEFT);
        if download == Some(true) {
            // Each form has its own file name, so that one is neither mistaken for another nor saved over it.
            let disposition = format!("attachment; filename=\"run-{run_id}{form}.log\"");
            response = response.with_unique_header("Content-Disposition", disposition);
        }
        if span.is_end_unknown && text.has_nothing() {
            return Ok(response);
        }
        let (up_to, missing) = text.version();
        // The tag stays the same as long as the text does. The time distinguishes a run with the same number in another database.
        let tag = format!("\"{run_id}-{:x}-{up_to:x}-{missing:x}{form}\"", span.created_at.unix_ms());
        let response = response.with_unique_header("AutoAppDev-Log-Gone", text.gone().to_string());
        let response = etag::with_tag(response, request, &tag);
        if response.status_code == 304 {
            return Ok(response);
        }
        let data = if has_heads && stream.is_none() {
            let len = usize::try_from(text.byte_count());
            let body = Body { run_id, reader: text.into_reader(), _place: place };
            // A text that is longer than this machine can address is sent without its length.
            match len {
                Ok(len) => ResponseBody::from_reader_and_size(body, len),
                Err(_) => ResponseBody::from_reader(body),
            }
        } else {
            // The length is known only after all of the text has been read.
            let form = Form { has_heads, stream: stream.map(Into::into) };
            ResponseBody::from_reader(Body { run_id, reader: RunOutput::new(&text, form), _place: place })
        };
        Ok(Response { data, ..response })
    }
}
