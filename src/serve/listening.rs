//! The sockets to serve on.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, anyhow, bail};

use super::ownership::{owned_already, retry_while_taken};
use crate::config::{Config, SOCKET_DEFAULT};
use crate::console;
use crate::kill_point::KillPoint;
use crate::process;
use crate::runtime_dir::{Distrust, ServerInfo, resolve_socket};
use crate::transport::Listener;

/// Opens every TCP socket to serve on: those that the service manager passes, else those at the configured addresses.
pub(super) fn listen(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Listener::inherited().context("cannot use the sockets of the service manager (LISTEN_FDS)")?;
    if listeners.is_empty() {
        let mut port = config.port;
        for host in &config.hosts {
            let address = SocketAddr::new(*host, port);
            let listener =
                retry_while_taken(&config.runtime_dir, || Listener::tcp(address), io::ErrorKind::AddrInUse).map_err(|error| {
                    if error.kind() == io::ErrorKind::AddrInUse
                        && let Some(info) = ServerInfo::read_live(&config.runtime_dir)
                    {
                        return owned_already(&config.runtime_dir, Some(&info));
                    }
                    let advice = match (error.kind(), process::shortage_of(&error)) {
                        (io::ErrorKind::AddrInUse, _) => {
                            "if another program has that port, set AUTOAPPDEV_PORT (or --port) to another one"
                        }
                        (_, Some(lack)) => lack.advice(),
                        (_, None) => "is it an address of this machine? set AUTOAPPDEV_HOST (or --host) to one that is",
                    };
                    anyhow!("cannot listen on {address}: {error}; {advice}")
                })?;
            // If the kernel picks the port, all addresses use the same one.
            port = listener.address().map_or(port, |address| address.port());
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

/// Opens the Unix socket, unless it is switched off.
pub(super) fn listen_on_socket(config: &mut Config) -> anyhow::Result<Option<Listener>> {
    let Some(path) = &config.socket else { return Ok(None) };
    let listen = |path: &Path| retry_while_taken(&config.runtime_dir, || Listener::unix(path), io::ErrorKind::AddrInUse);
    // A killed server's socket is removed at this path, so no other user's link may be in it.
    let resolved = resolve_socket(path, config);
    let listener = match resolved.and_then(|path| listen(&path).map(|listener| (path, listener))) {
        Ok((path, listener)) => {
            config.socket = Some(path);
            Some(listener)
        }
        // The user did not name this socket, so a full file system, or one without sockets, is no reason to fail.
        Err(error) if *path == config.runtime_dir.join(SOCKET_DEFAULT) => {
            console::complain(&format!("autoappdev: no Unix socket at {}: {error}; clients use the address", path.display()));
            None
        }
        Err(error) => {
            let advice = match Distrust::of(&error) {
                Some(Distrust::Outside { .. }) => "",
                _ => "; set AUTOAPPDEV_SOCKET to a path that is free and that this user can write, or to off",
            };
            bail!("cannot listen on {}: {error}{advice}", path.display());
        }
    };
    KillPoint::ServerSocketBound.reach();
    Ok(listener)
}
