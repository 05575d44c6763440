//! Ends open responses together with their session, so that logging out or ending a session also stops streams and downloads.

use std::io::{self, Read};
use std::sync::Arc;

use rouille::{Response, ResponseBody};

use super::auth::{Authenticator, Session};

/// How a body ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Ends normally, for streams that never end by themselves.
    Clean,
    /// Breaks off, so that no client takes the part for the whole.
    Broken,
}

/// A body that ends early if its session ends.
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

/// Returns the same response with a body that ends when the session does.
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
