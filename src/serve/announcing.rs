//! What a server says when it begins: `server.json`, and lines for people on stdout and in the log.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::Tokens;
use crate::console::say;
use crate::runtime_dir::{Secret, ServerInfo};

/// Says where it listens; what that is as a sentence's part.
pub(super) fn say_where(addresses: &[SocketAddr], socket: Option<&Path>) -> String {
    let ways: Vec<String> = addresses
        .iter()
        .map(|address| format!("http://{address}/"))
        .chain(socket.iter().map(|path| path.display().to_string()))
        .collect();
    let all = ways.join(" and ");
    ::log::info!("listening on {all}");
    for (n, way) in ways.iter().enumerate().filter(|(n, _)| *n < addresses.len().max(1)) {
        say(&format!("autoappdev {}listens on {way}", if n > 0 { "also " } else { "" }));
    }
    all
}

/// Says where scripts are looked up, if the root is a link.
pub(super) fn say_root(root: &Path, root_now: &Path) {
    if root_now != root {
        let root = format!("{} (now {})", root.display(), root_now.display());
        ::log::info!("scripts are looked up in {root}");
        say(&format!("scripts are looked up in {root}; each start resolves that path again"));
    }
}

/// Says where the token is that the server asks for.
pub(super) fn say_token(tokens: &Tokens, runtime_dir: &Path, is_open: bool) {
    let place = match tokens.token {
        Some(_) => "what AUTOAPPDEV_TOKEN says".to_owned(),
        None => format!("in {}", Secret::Token.path(runtime_dir).display()),
    };
    let pair = if is_open { "; `autoappdev pair` makes a link for a phone" } else { "" };
    say(&format!("it asks for the token, which is {place}{pair}"));
}

/// Writes `server.json`. On a full disk the server serves without: what is asked by its address is answered.
pub(super) fn announce(info: &ServerInfo, runtime_dir: &Path) -> bool {
    match info.write(runtime_dir) {
        Ok(()) => true,
        Err(error) => {
            ::log::warn!("cannot write server.json: {error}; until it can be, client commands have to be told the address");
            false
        }
    }
}
