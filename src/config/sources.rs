//! The sources of values: flags, then the environment, then the `.env` file, then the default.
//!
//! Level 0, pure. An empty value counts as unset. Each name of a setting is searched for in both the environment and `.env`
//! before its next name, so an alias never takes precedence.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::setting::{ConfigError, Default, Flag, Given, HIDDEN, Setting, Source, Typed};
use super::settings::{READ_TOKEN, RUNTIME_DIR, SETTINGS, SOCKET, SOCKET_DEFAULT, TOKEN, TRUSTED_GROUPS};
use super::token::{FoundToken, FoundTokens, Origin, Token, Tokens};
use super::values;

/// The input that the caller has read: flags, a lookup of variables, and the result of [`super::parse_dotenv`].
pub(super) struct Sources<'a, E> {
    pub(super) flags: &'a [Flag],
    pub(super) env: E,
    pub(super) dotenv: &'a [(String, OsString)],
}

impl<E: Fn(&str) -> Option<OsString>> Sources<'_, E> {
    /// Returns all values that are set and not empty, the strongest first.
    pub(super) fn candidates(&self, setting: &'static Setting) -> impl Iterator<Item = Given> {
        let flag = self.flags.iter().find(|(name, _)| setting.flag.is_some_and(|(flag, ..)| flag == *name));
        let flag = flag.map(|(name, value)| Given { setting, name, value: value.clone(), source: Source::Flag });
        let named = setting.names.iter().flat_map(move |&name| {
            let value = (self.env)(name);
            let in_environment = value.map(|value| Given { setting, name, value, source: Source::Environment });
            let in_dotenv = self.in_dotenv(setting, name).filter(|_| setting.is_in_dotenv);
            in_environment.into_iter().chain(in_dotenv)
        });
        flag.into_iter().chain(named).filter(|given| !given.value.is_empty())
    }

    /// Returns the value in the `.env` file. If a name occurs more than once, the last line counts.
    pub(super) fn in_dotenv(&self, setting: &'static Setting, name: &'static str) -> Option<Given> {
        let (_, value) = self.dotenv.iter().rev().find(|(key, _)| key == name)?;
        Some(Given { setting, name, value: value.clone(), source: Source::Dotenv })
    }

    /// Returns the value that was set for this program.
    pub(super) fn set(&self, setting: &'static Setting) -> Option<Given> {
        self.candidates(setting).find(|given| !given.is_foreign())
    }

    /// Checks whether a flag or the environment sets it, which a cloned project cannot do.
    pub(super) fn is_named(&self, setting: &'static Setting) -> bool {
        self.set(setting).is_some_and(|given| matches!(given.source, Source::Flag | Source::Environment))
    }

    /// Returns the value in force, or `None` if it is not set and the default is not a value.
    pub(super) fn found(&self, setting: &'static Setting) -> Option<Given> {
        self.set(setting).or_else(|| match setting.default {
            Default::Value(value) => {
                Some(Given { setting, name: setting.names[0], value: value.into(), source: Source::Default })
            }
            Default::InRuntimeDir(_) | Default::Words(_) => None,
        })
    }

    pub(super) fn optional<T>(&self, typed: &'static Typed<T>) -> Result<Option<T>, ConfigError> {
        self.found(&typed.setting).map(|given| (typed.parse)(&given)).transpose()
    }

    /// Returns the value in force of a setting whose default is a value.
    pub(super) fn value<T>(&self, typed: &'static Typed<T>) -> Result<T, ConfigError> {
        Ok(self.optional(typed)?.expect("the default is a value"))
    }

    /// Returns a size of at least `least` MiB, which `what` needs. The default grows to that size; a smaller setting is an
    /// error.
    pub(super) fn room(&self, typed: &'static Typed<u64>, least: u64, what: &str) -> Result<u64, ConfigError> {
        let Some(given) = self.set(&typed.setting) else { return Ok(self.value(typed)?.max(least)) };
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
            let problem = format!("is the same as {token}, so viewers could act; set two different tokens");
            return Err(ConfigError::Value { name: read_token, value: HIDDEN.to_owned(), problem });
        }
        Ok(tokens)
    }
}

impl FoundTokens {
    /// Finds the tokens of a client command, from the same sources as `Config::resolve`.
    pub fn resolve(
        env: impl Fn(&str) -> Option<OsString>,
        dotenv: &[(String, OsString)],
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        let sources = Sources { flags: &[], env, dotenv };
        let Tokens { token, read_token } = sources.tokens()?;
        let found = |token: Option<Token>, setting: &'static Setting| {
            let is_in_dotenv = sources.found(setting).is_some_and(|given| given.source == Source::Dotenv);
            token.map(|token| FoundToken { token, origin: if is_in_dotenv { Origin::Dotenv } else { Origin::Environment } })
        };
        // An invalid value must not prevent a command to a server that the user names.
        let runtime_dir = sources.runtime_dir(cwd).ok();
        Ok(Self { token: found(token, &TOKEN.setting), read_token: found(read_token, &READ_TOKEN.setting), runtime_dir })
    }
}

/// Returns the numbers of the groups that may write to directories above the runtime directory. `number_of` looks up the name
/// of a group.
pub fn trusted_groups(
    env: impl Fn(&str) -> Option<OsString>,
    number_of: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<u32>, ConfigError> {
    let sources = Sources { flags: &[], env, dotenv: &[] };
    let number_of = |group: String| {
        group.parse().ok().or_else(|| number_of(&group)).ok_or_else(|| ConfigError::Value {
            name: TRUSTED_GROUPS.setting.names[0],
            value: group.escape_debug().to_string(),
            problem: "is not a group of /etc/group; give the number of a group that is defined elsewhere".to_owned(),
        })
    };
    sources.optional(&TRUSTED_GROUPS)?.unwrap_or_default().into_iter().map(number_of).collect()
}

/// Refuses guarded settings from a `.env` file at `path` that other users can have written, for the reason in `problem`.
///
/// # Errors
/// The error names the settings. Other settings are accepted: they decide how the pipeline runs, and anyone who can write this
/// file can usually change the pipeline too.
pub fn refuse_guarded(
    flags: &[Flag],
    env: impl Fn(&str) -> Option<OsString>,
    dotenv: &[(String, OsString)],
    (path, problem): (&Path, &str),
) -> Result<(), ConfigError> {
    let sources = Sources { flags, env, dotenv };
    let guarded = SETTINGS.iter().filter(|setting| setting.is_guarded).filter_map(|setting| sources.set(setting));
    let names = names_from(guarded, Source::Dotenv);
    if names.is_empty() {
        return Ok(());
    }
    Err(ConfigError::UntrustedDotenv { names, path: path.to_owned(), problem: problem.to_owned() })
}

/// Returns the names of the settings from this source, separated by commas.
pub(super) fn names_from(given: impl Iterator<Item = Given>, source: Source) -> String {
    let names: Vec<_> = given.filter(|given| given.source == source).map(|given| given.name).collect();
    names.join(", ")
}

/// Resolves `path` against `cwd`, without `.` and doubled slashes. `..` stays, because its meaning depends on links.
pub(super) fn in_folder(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}
