//! What a server says when it begins, for people, on stdout and in the log.

use std::path::Path;

use crate::config::Tokens;
use crate::console::say;
use crate::runtime_dir::{Replaced, Secret, ServerInfo, target_of_link};
use crate::transport::{DESCRIPTORS_MIN, scarce_descriptors};

/// Says where it listens; returns that as a part of a sentence.
pub(super) fn say_where(info: &ServerInfo) -> String {
    let addresses = info.address.iter().chain(&info.more_addresses).map(|address| format!("http://{address}/"));
    let ways: Vec<String> = addresses.chain(info.socket.iter().map(|path| path.display().to_string())).collect();
    let all = ways.join(" and ");
    ::log::info!("listening on {all}");
    // The socket is for client commands, which find it by themselves, unless there is nothing else.
    let shown = ways.len() - usize::from(info.socket.is_some() && ways.len() > 1);
    for (n, way) in ways[..shown].iter().enumerate() {
        say(&format!("autoappdev {}listens on {way}", if n > 0 { "also " } else { "" }));
    }
    all
}

/// Reports which settings were taken from which source, without their values: a cloned project may contain a `.env` file.
pub(super) fn say_taken(taken: &[String]) {
    for line in taken {
        ::log::info!("{line}");
        say(line);
    }
}

/// Warns if the limit of open files is too low for the limits of connections to hold.
pub(super) fn say_scarce_descriptors() {
    if let Some(limit) = scarce_descriptors() {
        ::log::warn!(
            "the limit of open files is {limit}, and the server needs {DESCRIPTORS_MIN}: with fewer, requests can fail while clients hold many \
             connections; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
}

/// Reports the real path of the runtime directory if its path contains a link.
pub(super) fn say_runtime_dir(path: &Path, real: &Path) {
    if let Ok(Some(_)) = target_of_link(path) {
        say(&format!("the runtime directory {} is a link to {}", path.display(), real.display()));
    }
}

/// Says where scripts are looked up, if the root is a link.
pub(super) fn say_root(root: &Path, root_now: &Path) {
    if root_now != root {
        let root = format!("{} (now {})", root.display(), root_now.display());
        ::log::info!("scripts are looked up in {root}");
        say(&format!("scripts are looked up in {root}; each start resolves that path again"));
    }
}

/// Describes why secrets are replaced, and what follows from that.
pub(super) fn replaced_secrets(why: &Replaced, runtime_dir: &Path) -> String {
    let dir = runtime_dir.display();
    let what = match why {
        Replaced::Foreign(foreign) => {
            let names: Vec<_> = foreign.iter().map(|secret| secret.name()).collect();
            let names = names.join(", ");
            format!(
                "secrets that were not made for {dir} are replaced: {names} (the directory was copied or restored, or came with the folder, so \
                 others may know them)"
            )
        }
        Replaced::EachTime => format!(
            "each start of the server makes new tokens and ends all logins, because the file system of {dir} does not record when \
             directories are created, and tokens that came with an archive could not be told apart (AUTOAPPDEV_RUNTIME_DIR puts the \
             directory on another file system)"
        ),
    };
    format!("{what}; log in or pair again; to choose a token yourself, set AUTOAPPDEV_TOKEN or AUTOAPPDEV_READ_TOKEN")
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
