//! Answers that end with the session that asked for them: a log-out and a revocation reach what is open, not only what is asked next.

use std::io::{self, Read};
use std::sync::Arc;

use rouille::{Response, ResponseBody};

use super::auth::{Authenticator, Session};

/// How a body ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As one that has nothing more to say: for streams that never end by themselves.
    Clean,
    /// Broken off, so that no client takes it for the whole.
    Broken,
}

/// A body that is read while its session lasts.
struct Body {
    reader: Box<dyn Read + Send>,
    authenticator: Arc<Authenticator>,
    session: Arc<Session>,
    end: End,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.authenticator.is_over(&self.session) {
            return match self.end {
                End::Clean => Ok(0),
                End::Broken => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the session has ended")),
            };
        }
        self.reader.read(buffer)
    }
}

/// The same answer, whose body ends when the session does.
pub(super) fn limit(response: Response, authenticator: Arc<Authenticator>, session: Arc<Session>, end: End) -> Response {
    let Response { status_code, headers, data, upgrade } = response;
    let (reader, size) = data.into_reader_and_size();
    let body = Body { reader, authenticator, session, end };
    let data = match size {
        Some(size) => ResponseBody::from_reader_and_size(body, size),
        None => ResponseBody::from_reader(body),
    };
    Response { status_code, headers, data, upgrade }
}
