//! `GET /api/events`: the event stream (`crate::feed`).

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use rouille::{Request, Response, ResponseBody};

use crate::api::events::EventsQuery;
use crate::feed::{Begin, EventStream, EventText};
use crate::transport::Client;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;

/// The longest silence of a stream. Without events, something is sent at least this often, so that each side notices when the
/// other has disconnected.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The time after which a client is to reconnect, in milliseconds: after a broken connection, and after the end of this server.
const RETRY_MS: u32 = 1000;
const RETRY_AT_END_MS: u32 = 300;

impl App {
    pub(in crate::web) fn events(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        if !client.has_thread() {
            return Err(ApiError::TooManyStreams);
        }
        let EventsQuery { since } = input::query(request)?;
        // A browser sends this when it reconnects. It takes precedence over the query that its page once sent.
        let begin = match request.header("Last-Event-ID") {
            Some(id) => id.parse().map(Begin::Behind).map_err(|()| {
                ApiError::BadQuery("Last-Event-ID is not an event id of this server; leave it out to begin now".to_owned())
            })?,
            None => since.map_or(Begin::Now, Begin::Log),
        };
        let stream = self.streams.open(begin, client)?.ok_or(ApiError::TooManyStreams)?;
        let response = Response::from_data("text/event-stream", Vec::new()).with_unique_header("X-Accel-Buffering", "no");
        let text = EventText(format!("retry: {RETRY_MS}\n\n").into_bytes());
        let body = Body { stream, text, read: 0, spoke_at: Instant::now(), is_over: false };
        Ok(Response { data: ResponseBody::from_reader(body), ..response })
    }
}

/// The body of a response that never ends by itself: reading waits for events. A read is interrupted when the connection is to
/// check whether its client is still connected.
struct Body {
    stream: EventStream,
    text: EventText,
    /// How many bytes of the text have been read.
    read: usize,
    spoke_at: Instant,
    is_over: bool,
}

impl Body {
    /// Appends new events to the text, or waits until there may be some.
    fn write_more(&mut self) -> io::Result<()> {
        self.stream.gather(&mut self.text)?;
        if !self.text.0.is_empty() {
            return Ok(());
        }
        if !self.stream.wait(SILENCE_MAX.saturating_sub(self.spoke_at.elapsed())) {
            self.is_over = true;
            write!(self.text.0, "retry: {RETRY_AT_END_MS}\n\n")?;
        } else if self.spoke_at.elapsed() >= SILENCE_MAX {
            self.text.0.extend_from_slice(b":\n\n");
        }
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.text.0.len() {
            if self.is_over {
                return Ok(0);
            }
            self.text.0.clear();
            self.read = 0;
            self.write_more()?;
            // Only if nothing is new, so that frequent checks do not hold back events.
            if self.text.0.is_empty() && self.stream.is_check_due() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        let count = (&self.text.0[self.read..]).read(buffer)?;
        self.read += count;
        self.spoke_at = Instant::now();
        Ok(count)
    }
}
