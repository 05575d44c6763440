//! The definition of a setting, a value that was found for it, and the error for a wrong value.
//!
//! Level 0, pure. The table of all settings is in `settings`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::token::Token;
use super::values;

/// The placeholder for a secret in an error message.
pub(super) const HIDDEN: &str = "…";

/// The columns of a row in the table.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of its own in the table")]
pub(crate) struct Setting {
    /// The variables, the strongest first. A name without the prefix `AUTOAPPDEV_` is shared with other programs.
    pub(crate) names: &'static [&'static str],
    /// The flag, the word for its value in the help, and the commands that have it from this table.
    pub(crate) flag: Option<(&'static str, &'static str, &'static [&'static str])>,
    /// Whether a `.env` file may set it.
    pub(crate) is_in_dotenv: bool,
    /// True for a setting that decides who may act, where the server listens or writes, or what runs. It is taken from a `.env`
    /// file only if no other user can have written the file.
    pub(crate) is_guarded: bool,
    /// The value in force if the setting is not set.
    pub(crate) default: Default,
    /// The smallest and the largest valid number.
    pub(crate) range: (u64, u64),
    /// The help text, in Markdown without links.
    pub(crate) help: &'static str,
    /// Whether the value must not be shown.
    pub(crate) is_secret: bool,
    /// Whether a process of a pipeline can use the variable, because it says where its run's files are or which server a client
    /// command uses.
    pub(crate) is_for_pipelines: bool,
    /// Whether a value under a shared name is meant for another program.
    pub(crate) is_foreign: fn(&Given) -> bool,
}

/// The value that is in force if a setting is not set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    /// This value.
    Value(&'static str),
    /// A file of this name in the runtime directory.
    InRuntimeDir(&'static str),
    /// The value that these words describe, in Markdown.
    Words(&'static str),
}

impl Setting {
    /// The values that most rows have in common.
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

    /// Returns the meaning and the default, in Markdown.
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

    /// Returns the help for a terminal. For a flag, it includes the variables.
    pub(crate) fn help(&self) -> String {
        let (meaning, default) = self.texts();
        let variables = self.flag.map_or_else(String::new, |_| format!(" [env: {}]", self.names.join(", ")));
        format!("{meaning}{variables} [default: {default}]").replace('`', "")
    }
}

/// A flag, such as `--port`, and its value, as typed.
pub type Flag = (&'static str, OsString);

/// Checks whether other programs use this variable too.
pub(super) fn is_shared(name: &str) -> bool {
    !name.starts_with("AUTOAPPDEV_")
}

/// A setting and the type of its value.
#[derive(Debug)]
pub(super) struct Typed<T> {
    pub(super) setting: Setting,
    pub(super) parse: fn(&Given) -> Result<T, ConfigError>,
}

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The `.env` file of the working directory.
    Dotenv,
    /// The default, because the setting is not set.
    Default,
}

/// A value, with the names that an error message needs.
pub(crate) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) name: &'static str,
    pub(super) value: OsString,
    pub(super) source: Source,
}

impl Given {
    /// Checks whether the value is meant for another program.
    pub(super) fn is_foreign(&self) -> bool {
        self.source != Source::Flag && is_shared(self.name) && (self.setting.is_foreign)(self)
    }

    pub(super) fn text(&self) -> Result<&str, ConfigError> {
        self.value.to_str().ok_or_else(|| self.wrong("is not UTF-8"))
    }

    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(self.text()?.trim()).map_err(|problem| self.wrong(problem))
    }

    /// Parses a comma-separated list. Blanks around an item, empty items and repeated items are ignored.
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
        // A flag cannot contain a NUL, and a `.env` line with one is refused, but the caller's `env` could return anything.
        if self.value.as_bytes().contains(&0) { Err(self.wrong("contains a NUL")) } else { Ok(PathBuf::from(&self.value)) }
    }

    /// Parses `DATABASE_URL`, or the value of the flag, which can also be a plain path.
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

    /// Returns the error about the whole value.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> ConfigError {
        self.wrong_as(&self.value.to_string_lossy(), problem)
    }

    fn wrong_as(&self, shown: &str, problem: impl Into<String>) -> ConfigError {
        let place = if self.source == Source::Dotenv { " (in .env)" } else { "" };
        // Text before an @ can be a password, and this text is written to logs.
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
        /// The flag or variable as the owner wrote it, such as `AUTOAPPDEV_PORT` or `--port`.
        name: &'static str,
        /// The value, made printable and without a possible password. It ends with `(in .env)` if it comes from that file.
        value: String,
        /// A description of the error and of what is expected, as a text that follows the value.
        problem: String,
    },
    /// A line of the `.env` file is not an assignment.
    #[error("line {line} of .env {problem}")]
    Dotenv {
        /// The line's number, from 1.
        line: usize,
        /// A description of the error, as a text that follows the line.
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
