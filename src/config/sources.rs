//! Where values come from: flags, then the environment, then the `.env` file, then the default.
//!
//! Level 0, pure. An empty value counts as unset. A name goes through both the environment and `.env` before the next name of the same
//! setting: an alias never wins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::setting::{ConfigError, Default, Flag, Given, HIDDEN, Setting, Source, Typed};
use super::settings::{READ_TOKEN, RUNTIME_DIR, SOCKET, SOCKET_DEFAULT, TOKEN};
use super::token::Tokens;
use super::values;

/// What the caller read: flags, a look-up of variables, and [`super::parse_dotenv`]'s answer.
pub(super) struct Sources<'a, E> {
    pub(super) flags: &'a [Flag],
    pub(super) env: E,
    pub(super) dotenv: &'a [(String, OsString)],
}

impl<E: Fn(&str) -> Option<OsString>> Sources<'_, E> {
    /// The strongest value that is set, is not empty and is wanted.
    pub(super) fn find(&self, setting: &'static Setting, is_wanted: &mut dyn FnMut(&Given) -> bool) -> Option<Given> {
        if let Some((flag, ..)) = setting.flag
            && let Some((name, value)) = self.flags.iter().find(|(name, value)| *name == flag && !value.is_empty())
        {
            return Some(Given { setting, name, value: value.clone(), source: Source::Flag });
        }
        for &name in setting.names {
            let found = self.in_environment(setting, name).filter(&mut *is_wanted);
            let in_dotenv = || self.in_dotenv(setting, name).filter(|given| setting.is_in_dotenv && is_wanted(given));
            if let Some(given) = found.or_else(in_dotenv) {
                return Some(given);
            }
        }
        None
    }

    pub(super) fn in_environment(&self, setting: &'static Setting, name: &'static str) -> Option<Given> {
        let value = (self.env)(name).filter(|value| !value.is_empty())?;
        Some(Given { setting, name, value, source: Source::Environment })
    }

    /// The last line counts.
    pub(super) fn in_dotenv(&self, setting: &'static Setting, name: &'static str) -> Option<Given> {
        let (_, value) = self.dotenv.iter().rev().find(|(key, _)| key == name)?;
        (!value.is_empty()).then(|| Given { setting, name, value: value.clone(), source: Source::Dotenv })
    }

    /// The value in force; `None` if nobody set it and the default is no value.
    pub(super) fn found(&self, setting: &'static Setting) -> Option<Given> {
        self.find(setting, &mut |given| !given.is_foreign()).or_else(|| match setting.default {
            Default::Value(value) => {
                Some(Given { setting, name: setting.names[0], value: value.into(), source: Source::Default })
            }
            Default::InRuntimeDir(_) | Default::Words(_) => None,
        })
    }

    pub(super) fn optional<T>(&self, typed: &'static Typed<T>) -> Result<Option<T>, ConfigError> {
        self.found(&typed.setting).map(|given| (typed.parse)(&given)).transpose()
    }

    /// Of a setting whose default is a value.
    pub(super) fn value<T>(&self, typed: &'static Typed<T>) -> Result<T, ConfigError> {
        Ok(self.optional(typed)?.expect("the default is a value"))
    }

    /// A size that has room for `least` MiB, which `what` takes; its default grows with that.
    pub(super) fn room(&self, typed: &'static Typed<u64>, least: u64, what: &str) -> Result<u64, ConfigError> {
        let given = self.found(&typed.setting).filter(|given| given.source != Source::Default);
        let Some(given) = given else { return Ok(self.value(typed)?.max(least)) };
        let range = (least, typed.setting.range.1);
        given.parsed(|text| {
            values::number(text, range, values::MEGABYTES).map_err(|problem| format!("{problem}; {what} {least} of them"))
        })
    }

    pub(super) fn runtime_dir(&self, cwd: &Path) -> Result<PathBuf, ConfigError> {
        Ok(in_folder(cwd, &self.value(&RUNTIME_DIR)?))
    }

    pub(super) fn socket(&self, runtime_dir: &Path, cwd: &Path) -> Result<Option<PathBuf>, ConfigError> {
        let socket = self.optional(&SOCKET)?;
        Ok(socket.map_or_else(|| Some(runtime_dir.join(SOCKET_DEFAULT)), |named| named.map(|path| in_folder(cwd, &path))))
    }

    pub(super) fn tokens(&self) -> Result<Tokens, ConfigError> {
        let tokens = Tokens { token: self.optional(&TOKEN)?, read_token: self.optional(&READ_TOKEN)? };
        if tokens.is_set() && tokens.token == tokens.read_token {
            let [token, read_token] = [&TOKEN, &READ_TOKEN].map(|token| token.setting.names[0]);
            let problem = format!("is the same as {token}: who may only look could act; set two different ones");
            return Err(ConfigError::Value { name: read_token, value: HIDDEN.to_owned(), problem });
        }
        Ok(tokens)
    }
}

impl Tokens {
    /// What a client command finds: as `Config::resolve` does.
    pub fn resolve(env: impl Fn(&str) -> Option<OsString>, dotenv: &[(String, OsString)]) -> Result<Self, ConfigError> {
        Sources { flags: &[], env, dotenv }.tokens()
    }
}

/// `path` as seen from `cwd`, without `.` and doubled slashes; `..` stays, since what it means depends on links.
pub(super) fn in_folder(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}
