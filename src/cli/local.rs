//! A server's Unix socket, as a transport of the HTTP client: the same requests without an address, a port or a token.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Error};

use crate::socket_path::SocketPath;

/// What stands in a URL for the server behind the socket: a number, so that nobody is asked for a name.
pub(super) const BASE: &str = "http://127.0.0.1";

/// An agent whose every connection goes to the socket at `path`.
pub(super) fn agent(settings: Config, path: &Path) -> Agent {
    Agent::with_parts(settings, ToSocket { path: path.to_owned() }, DefaultResolver::default())
}

#[derive(Debug)]
struct ToSocket {
    path: PathBuf,
}

impl Connector for ToSocket {
    type Out = Local;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Local>, Error> {
        let stream = SocketPath::open(&self.path)?.connect()?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Local { stream, buffers }))
    }
}

#[derive(Debug)]
struct Local {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl Transport for Local {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.set_write_timeout(limit(timeout))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(|error| late(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_read_timeout(limit(timeout))?;
        let count = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| late(error, timeout))?,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        // No connection is kept for another request.
        false
    }
}

/// As the socket takes it: none at all, or more than nothing.
fn limit(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|left| *left)
}

fn late(error: io::Error, timeout: NextTimeout) -> Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        Error::Timeout(timeout.reason)
    } else {
        error.into()
    }
}
