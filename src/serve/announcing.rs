//! The messages of a starting server for people, on stdout and in the log.

use std::path::Path;

use crate::config::Tokens;
use crate::console::{is_one_terminal, say};
use crate::log::SAID;
use crate::runtime_dir::{Replaced, Secret, ServerInfo, target_of_link};
use crate::script::find_script;
use crate::transport::{DESCRIPTORS_MIN, scarce_descriptors};

/// The ways to reach the server.
pub(super) struct Ways {
    all: Vec<String>,
    /// The number of ways that are printed. The socket is not printed unless it is the only way, because client commands find
    /// it by themselves.
    said: usize,
}

impl Ways {
    pub(super) fn of(info: &ServerInfo) -> Self {
        let addresses = info.address.iter().chain(&info.more_addresses).map(|address| format!("http://{address}/"));
        let all: Vec<String> = addresses.chain(info.socket.iter().map(|path| path.display().to_string())).collect();
        let said = all.len() - usize::from(info.socket.is_some() && all.len() > 1);
        Self { all, said }
    }

    /// Returns all ways, as a part of a sentence.
    pub(super) fn sentence(&self) -> String {
        self.all.join(" and ")
    }

    /// Logs the ways, and prints them for programs, which read the server's address from the first line of standard output.
    pub(super) fn say_to_programs(&self) {
        ::log::info!(target: SAID, "listening on {}", self.sentence());
        if !is_one_terminal() {
            self.say("");
        }
    }

    /// Prints the ways on a terminal, where they are the last lines of the start and so are easy to find.
    pub(super) fn say_to_a_person(&self, stops_run: bool) {
        if is_one_terminal() {
            let run = if stops_run { " and its run" } else { "; a run goes on" };
            self.say(&format!(" (Ctrl-C ends the server{run})"));
        }
    }

    fn say(&self, hint: &str) {
        for (n, way) in self.all[..self.said].iter().enumerate() {
            let hint = if n + 1 == self.said { hint } else { "" };
            say(&format!("autoappdev {}listens on {way}{hint}", if n > 0 { "also " } else { "" }));
        }
    }
}

/// Warns if the configured script cannot be started now. Each start looks it up again.
pub(super) fn warn_of_script(root_now: &Path, script: Option<&str>) {
    if let Some(Err(error)) = script.map(|name| find_script(root_now, name, &[])) {
        ::log::warn!("the configured script cannot be started now: {error}");
    }
}

/// Reports which settings were taken from which source, without their values: a cloned project may contain a `.env` file.
pub(super) fn say_taken(taken: &[String]) {
    for line in taken {
        ::log::info!(target: SAID, "{line}");
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

/// Reports where scripts are looked up, if the root is a link.
pub(super) fn say_root(root: &Path, root_now: &Path) {
    if root_now != root {
        let root = format!("{} (now {})", root.display(), root_now.display());
        ::log::info!(target: SAID, "scripts are looked up in {root}");
        say(&format!("scripts are looked up in {root}; each start resolves that path again"));
    }
}

/// Describes why secrets are replaced, and what that means for the user.
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

/// Reports where to find the token that the server requires.
pub(super) fn say_token(tokens: &Tokens, runtime_dir: &Path, is_open: bool) {
    let place = match tokens.token {
        Some(_) => "what AUTOAPPDEV_TOKEN says".to_owned(),
        None => format!("in {}", Secret::Token.path(runtime_dir).display()),
    };
    let pair = if is_open { "; `autoappdev pair` makes a link for a phone" } else { "" };
    say(&format!("it asks for the token, which is {place}{pair}"));
}
