//! What is known of a setting, a value of it that was found somewhere, and what is wrong with that.
//!
//! Level 0, pure. The table of all settings is in `settings`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::token::Token;
use super::values;

/// What an error shows in place of a secret.
pub(super) const HIDDEN: &str = "…";

/// The column of each row of the table.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of its own in the table")]
pub(crate) struct Setting {
    /// The variables, the strongest first. A name that does not begin with `AUTOAPPDEV_` is shared with other programs.
    pub(crate) names: &'static [&'static str],
    /// The flag, the word for its value in the help, and the commands that have it from this table.
    pub(crate) flag: Option<(&'static str, &'static str, &'static [&'static str])>,
    /// Whether a `.env` file may set it.
    pub(crate) is_in_dotenv: bool,
    /// True for a setting that decides who may act, where the server listens or writes, or what runs. It is taken from a `.env`
    /// file only if no other user can have written the file.
    pub(crate) is_guarded: bool,
    /// What is in force where it is not set.
    pub(crate) default: Default,
    /// The smallest and the largest number.
    pub(crate) range: (u64, u64),
    /// For people, in Markdown without links.
    pub(crate) help: &'static str,
    /// Whether its value must not be shown.
    pub(crate) is_secret: bool,
    /// Whether a process of a pipeline can use the variable: where its run's files are, and which server a client command uses.
    pub(crate) is_for_pipelines: bool,
    /// Whether a value under a shared name is meant for another program.
    pub(crate) is_foreign: fn(&Given) -> bool,
}

/// What is in force where a setting is not set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    /// This value.
    Value(&'static str),
    /// A file of this name in the runtime directory.
    InRuntimeDir(&'static str),
    /// What these words describe, in Markdown.
    Words(&'static str),
}

impl Setting {
    /// What most rows have in common.
    pub(super) const USUAL: Self = Self {
        names: &[],
        flag: None,
        is_in_dotenv: true,
        is_guarded: false,
        default: Default::Words("none"),
        range: (0, u64::MAX),
        help: "",
        is_secret: false,
        is_for_pipelines: false,
        is_foreign: |_| false,
    };

    /// What it means and the default, in Markdown.
    pub(crate) fn texts(&self) -> (String, String) {
        let meaning = match self.range {
            (_, u64::MAX) => self.help.to_owned(),
            (min, max) => format!("{} ({min} to {max})", self.help),
        };
        let default = match self.default {
            Default::Value(value) => format!("`{value}`"),
            Default::InRuntimeDir(name) => format!("`{name}` in the runtime directory"),
            Default::Words(words) => words.to_owned(),
        };
        (meaning, default)
    }

    /// Its help on a terminal: of a flag with its variables.
    pub(crate) fn help(&self) -> String {
        let (meaning, default) = self.texts();
        let variables = self.flag.map_or_else(String::new, |_| format!(" [env: {}]", self.names.join(", ")));
        format!("{meaning}{variables} [default: {default}]").replace('`', "")
    }
}

/// A flag, such as `--port`, and its value, as typed.
pub type Flag = (&'static str, OsString);

/// Whether other programs use this variable as well.
pub(super) fn is_shared(name: &str) -> bool {
    !name.starts_with("AUTOAPPDEV_")
}

/// A setting and the type of its value.
#[derive(Debug)]
pub(super) struct Typed<T> {
    pub(super) setting: Setting,
    pub(super) parse: fn(&Given) -> Result<T, ConfigError>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The `.env` file of the working directory.
    Dotenv,
    /// Nobody set it.
    Default,
}

/// A value, with what an error needs to name it.
pub(crate) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) name: &'static str,
    pub(super) value: OsString,
    pub(super) source: Source,
}

impl Given {
    /// Whether it is meant for another program.
    pub(super) fn is_foreign(&self) -> bool {
        self.source != Source::Flag && is_shared(self.name) && (self.setting.is_foreign)(self)
    }

    pub(super) fn text(&self) -> Result<&str, ConfigError> {
        self.value.to_str().ok_or_else(|| self.wrong("is not UTF-8"))
    }

    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(self.text()?.trim()).map_err(|problem| self.wrong(problem))
    }

    /// A comma-separated list; blanks around an item and empty items do not count, and an item counts once.
    pub(super) fn list<T: PartialEq>(&self, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let mut list = Vec::new();
        for text in self.text()?.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let value = item(text).map_err(|problem| self.wrong_as(text, problem))?;
            if !list.contains(&value) {
                list.push(value);
            }
        }
        Ok(list)
    }

    pub(super) fn number(&self, what: &str) -> Result<u64, ConfigError> {
        self.parsed(|text| values::number(text, self.setting.range, what))
    }

    pub(super) fn token(&self) -> Result<Token, ConfigError> {
        let text = self.value.to_str().unwrap_or("\0");
        Token::new(text.trim()).map_err(|problem| self.wrong(problem))
    }

    pub(super) fn path(&self) -> Result<PathBuf, ConfigError> {
        // A flag cannot hold a NUL and a `.env` line with one is refused, but a caller's `env` is not known here.
        if self.value.as_bytes().contains(&0) { Err(self.wrong("contains a NUL")) } else { Ok(PathBuf::from(&self.value)) }
    }

    /// `DATABASE_URL`, or the flag, which takes a plain path too.
    pub(super) fn database(&self) -> Result<PathBuf, ConfigError> {
        let bytes = self.value.as_bytes();
        let has_scheme = values::scheme(&self.value.to_string_lossy()).is_some();
        if let Some(rest) = bytes.strip_prefix(b"sqlite:") {
            values::sqlite_path(OsStr::from_bytes(rest)).map_err(|problem| self.wrong(problem))
        } else if has_scheme || self.source != Source::Flag {
            Err(self.wrong("is not a database this program can use: sqlite:<path> is expected"))
        } else {
            self.path()
        }
    }

    /// The error about the whole value.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> ConfigError {
        self.wrong_as(&self.value.to_string_lossy(), problem)
    }

    fn wrong_as(&self, shown: &str, problem: impl Into<String>) -> ConfigError {
        let place = if self.source == Source::Dotenv { " (in .env)" } else { "" };
        // What stands before an @ may be a password, and this text goes to logs.
        let shown = match shown.rsplit_once('@') {
            _ if self.setting.is_secret => HIDDEN.to_owned(),
            Some((_, after)) => format!("…@{after}"),
            None => shown.to_owned(),
        };
        let value = format!("{}{place}", shown.escape_debug());
        ConfigError::Value { name: self.name, value, problem: problem.into() }
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag's or variable's value is wrong.
    #[error("{name}={value} {problem}")]
    Value {
        /// The flag or variable as the owner wrote it, `AUTOAPPDEV_PORT` or `--port`.
        name: &'static str,
        /// The value, made printable, with what may be a password left out; ends in `(in .env)` where it came from there.
        value: String,
        /// What is wrong with it and what is expected, to be read after the value.
        problem: String,
    },
    /// The `.env` file has a line that is no assignment.
    #[error("line {line} of .env {problem}")]
    Dotenv {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it, to be read after the line.
        problem: &'static str,
    },
    /// The `.env` file contains settings that are used only if no other user can have written it.
    #[error(
        "{names} in {} is not used, because {problem}; make the file writable for this user only (`chmod go-w .env` or \
            `chown`), or put these settings into the environment", path.display()
    )]
    UntrustedDotenv {
        /// The settings, separated by commas.
        names: String,
        /// The file.
        path: PathBuf,
        /// Why another user can have written it, as a clause that follows "because".
        problem: String,
    },
}
