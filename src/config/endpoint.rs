//! The server that a client command uses: that of its runtime directory, or one whose address the user named.
//!
//! Level 0, pure. The command line and the user's environment name an address. A `.env` file and the defaults do not: they say
//! where the server of this folder would listen, and the server of another folder may listen there.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::setting::{ConfigError, Given, Source};
use super::settings::{HOST, PORT, RUNTIME_DIR, RUNTIME_DIR_DEFAULT, SOCKET, URL};
use super::sources::{Sources, in_folder};

/// The place where a client command looks for its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// This address and no other, as `http://HOST[:PORT]` from [`super::server_url`].
    Url(String),
    /// A runtime directory.
    Folder(Folder),
}

/// A runtime directory, and the addresses that the environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The name of the project for users: the working directory, if that has the runtime directory in its usual place.
    pub project: PathBuf,
    /// The runtime directory, in which the server records its address.
    pub runtime_dir: PathBuf,
    /// The folder that must contain the runtime directory, if a `.env` file names the directory. A link in place of the default
    /// is followed only to a server that was started with that path.
    pub folder: Option<PathBuf>,
    /// The Unix socket of that directory's server, unless it is switched off or the environment names one.
    pub socket: Option<PathBuf>,
    /// The Unix socket of any server, named by the environment.
    pub named_socket: Option<PathBuf>,
    /// The address of any server, named by the environment.
    pub named_address: Option<SocketAddr>,
    /// The address at which a server of this folder would listen. The only request that may be sent there asks which server
    /// answers.
    pub usual_address: Option<SocketAddr>,
    /// The value of `AUTOAPPDEV_URL` in the `.env` file, where it has no effect.
    pub url_in_dotenv: Option<String>,
}

impl Endpoint {
    /// Reads only the settings that are needed to find the server. A wrong value elsewhere must not stop a client command.
    pub fn resolve(
        env: impl Fn(&str) -> Option<OsString>,
        dotenv: &[(String, OsString)],
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        let sources = Sources { flags: &[], env, dotenv };
        if let Some(url) = sources.optional(&URL)? {
            return Ok(Self::Url(url));
        }
        let url_in_dotenv = sources.in_dotenv(&URL.setting, URL.setting.names[0]).filter(|given| !given.value.is_empty());
        let url_in_dotenv = url_in_dotenv.map(|url| (URL.parse)(&url)).transpose()?;
        let (port, hosts) = (sources.value(&PORT)?, sources.value(&HOST)?);
        let usual_address = Some(SocketAddr::new(hosts[0], port)).filter(|address| address.port() != 0);
        let runtime_dir = sources.runtime_dir(cwd)?;
        let is_usual = runtime_dir == in_folder(cwd, Path::new(RUNTIME_DIR_DEFAULT));
        let socket = sources.socket(&runtime_dir, cwd)?;
        let is_named = sources.found(&SOCKET.setting).is_some_and(|given| given.source == Source::Environment);
        let (socket, named_socket) = if is_named { (None, socket) } else { (socket, None) };
        let is_in_dotenv = sources.set(&RUNTIME_DIR.setting).is_some_and(|given| given.source == Source::Dotenv);
        Ok(Self::Folder(Folder {
            folder: is_in_dotenv.then(|| in_folder(cwd, Path::new(""))),
            project: if is_usual { in_folder(cwd, Path::new("")) } else { runtime_dir.clone() },
            runtime_dir,
            socket,
            named_socket,
            named_address: sources.named_address()?,
            usual_address,
            url_in_dotenv,
        }))
    }
}

impl<E: Fn(&str) -> Option<OsString>> Sources<'_, E> {
    /// Returns the address that the environment names.
    ///
    /// `AUTOAPPDEV_PORT` names one, unless it lets the kernel pick the port, and so does a single `AUTOAPPDEV_HOST`. The
    /// wildcard (`0.0.0.0`) does not count, and a port in the `.env` file belongs to the folder. `PORT` alone does not count,
    /// because it is set for all kinds of programs.
    fn named_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let is_in_environment = |given: &Given| given.source == Source::Environment;
        let host = match self.found(&HOST.setting).filter(is_in_environment) {
            Some(given) => (HOST.parse)(&given)?.first().copied(),
            None => None,
        };
        let Some(port) = self.found(&PORT.setting) else { return Ok(None) };
        let host = if is_in_environment(&port) && port.name == PORT.setting.names[0] {
            Some(host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
        } else {
            host.filter(|host| !host.is_unspecified() && port.source != Source::Dotenv)
        };
        let port = (PORT.parse)(&port)?;
        Ok(host.filter(|_| port != 0).map(|host| SocketAddr::new(host, port)))
    }
}
