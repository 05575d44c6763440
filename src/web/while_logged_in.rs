//! Ends open responses together with their session, so that logging out or ending a session also stops streams and downloads.

use std::io::{self, Read};
use std::sync::Arc;

use rouille::{Response, ResponseBody};

use super::auth::{Authenticator, Session};

/// The way in which a body ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a normal end, for streams that never end by themselves.
    Clean,
    /// With an error, so that no client takes the part for the whole.
    Broken,
}

/// A body that ends early if its session ends.
struct Body {
    reader: Box<dyn Read + Send>,
    authenticator: Arc<Authenticator>,
    session: Arc<Session>,
    end: End,
}

impl Body {
    /// Returns the result of a read once the session has ended.
    fn over(&self) -> Option<io::Result<usize>> {
        self.authenticator.is_over(&self.session).then(|| match self.end {
            End::Clean => Ok(0),
            End::Broken => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the session has ended")),
        })
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(over) = self.over() {
            return over;
        }
        let read = self.reader.read(buffer);
        // A read can wait for a change, and nothing wakes it if the session expires meanwhile.
        self.over().unwrap_or(read)
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
