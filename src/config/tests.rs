use std::net::{Ipv4Addr, SocketAddr};

use super::settings::names::*;
use super::*;

mod endpoint;
mod origins;
mod values;

const CWD: &str = "/srv/box";

/// Resolves settings from flags, the environment and `.env`, each given as pairs.
fn resolve(flags: &[(&'static str, &str)], env: &[(&str, &str)], dotenv: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dotenv: Vec<_> = dotenv.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    let flags: Vec<_> = flags.iter().map(|&(name, value)| (name, value.into())).collect();
    Config::resolve(&flags, lookup(env), &dotenv, Path::new(CWD))
}

fn lookup<'a>(env: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
}

fn from_env(name: &str, value: &str) -> Result<Config, ConfigError> {
    resolve(&[], &[(name, value)], &[])
}

fn good(name: &str, value: &str) -> Config {
    from_env(name, value).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the error text for `NAME=value`, after checking that it names both.
fn refusal(name: &str, value: &str) -> String {
    let error = from_env(name, value).expect_err(value).to_string();
    error.strip_prefix(&format!("{name}={value} ")).unwrap_or_else(|| panic!("names neither: {error}")).to_owned()
}

#[test]
fn unset_settings_have_documented_defaults() {
    let config = resolve(&[], &[], &[]).expect("defaults are right");
    let expected = Config {
        hosts: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port: 8788,
        socket: Some("/srv/box/runtime/server.sock".into()),
        folder: "/srv/box".into(),
        runtime_dir: "/srv/box/runtime".into(),
        is_runtime_dir_named: false,
        database: "/srv/box/runtime/autoappdev.db".into(),
        is_socket_named: false,
        is_database_named: false,
        pipeline_root: "/srv/box".into(),
        pipeline_script: None,
        allow_origins: vec![],
        allow_hosts: vec![],
        tokens: Tokens::default(),
        uses_cgroups: true,
        keeps_env_values: false,
        usage_every: Duration::from_secs(10),
        on_term: OnTerm::Auto,
        grace: Duration::from_secs(10),
        log_segment_bytes: 16 << 20,
        log_run_bytes: 256 << 20,
        log_total_bytes: 1024 << 20,
        disk_free_bytes: None,
        runs_keep: 1000,
        runs_keep_for: None,
        taken_vars: vec![],
        taken: vec![],
        notes: vec![],
    };
    assert_eq!(config, expected);
    assert_eq!(SocketAddr::new(config.hosts[0], config.port).to_string(), "127.0.0.1:8788");
}

#[test]
fn database_url_of_another_program_is_ignored() {
    let foreign = ["postgres://me:secret@host/db", "mysql://h/d", "file:./dev.db", "sqlite+aiosqlite:///x.db", "jdbc:sqlite:x"];
    // In the project's file, this is every value that is not clearly ours.
    let projects = ["x.db", "sqlite:x.db?mode=rwc", "sqlite::memory:", "sqlite3:x.db", "${OTHER}"];
    let default = Path::new("/srv/box/runtime/autoappdev.db");
    for url in foreign {
        let config = good(DATABASE, url);
        assert_eq!(config.database, default, "{url}");
        assert!(matches!(&*config.notes, [note] if note.contains("in the environment is not used") && !note.contains("secret")));
    }
    for url in foreign.into_iter().chain(projects) {
        let config = resolve(&[], &[], &[(DATABASE, url)]).expect(url);
        assert_eq!(config.database, default, "{url}");
        assert!(matches!(&*config.notes, [note] if note.contains("in .env is not used")), "{:?}", config.notes);
    }
    let both = resolve(&[], &[(DATABASE, foreign[0])], &[(DATABASE, "sqlite:x.db")]).expect("ours");
    assert_eq!(both.database, Path::new("/srv/box/x.db"));
    assert_eq!(good(DATABASE, "sqlite:x.db").notes, Vec::<String>::new());
}

#[test]
fn port_of_another_program_is_ignored() {
    let port = |name, value| resolve(&[], &[], &[(name, value)]).map(|config| config.port);
    assert_eq!(port("PORT", "3000"), Ok(3000));
    for value in ["/dev/ttyUSB0", "${WEB_PORT}", "tcp://10.0.0.1:80"] {
        assert_eq!(port("PORT", value), Ok(8788), "{value}");
        assert!(port(PORT, value).is_err(), "this one is ours");
    }
}

#[test]
fn password_is_not_repeated_in_an_error() {
    let error = from_env(DATABASE, "sqlite3://me:secret@host/db").expect_err("a form that is not known").to_string();
    assert!(error.starts_with("DATABASE_URL=…@host/db is not"), "{error}");
}

#[test]
fn control_characters_in_config_errors_are_escaped() {
    let error = from_env(PORT, "\u{1b}[31m").expect_err("no port").to_string();
    assert!(error.starts_with("AUTOAPPDEV_PORT=\\u{1b}[31m is not"), "{error}");
}

#[test]
fn flags_override_environment_dotenv_and_defaults_in_order() {
    let port = |flag: Option<&str>, env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        let flags: Vec<_> = flag.into_iter().map(|port| ("--port", port)).collect();
        resolve(&flags, env, dotenv).unwrap_or_else(|error| panic!("{error}")).port
    };
    let (env, dotenv) = ([(PORT, "2")], [(PORT, "3")]);
    assert_eq!(port(Some("1"), &env, &dotenv), 1);
    assert_eq!(port(None, &env, &dotenv), 2);
    assert_eq!(port(None, &[], &dotenv), 3);
    assert_eq!(port(None, &[], &[]), 8788);
    assert_eq!(port(Some(""), &[(PORT, "")], &dotenv), 3, "empty counts as unset");
    assert_eq!(port(None, &[], &[(PORT, "3"), (PORT, "4")]), 4, "the later line counts");
    assert_eq!(port(None, &[("PORT", "5")], &[]), 5);
    assert_eq!(port(None, &[("PORT", "5"), (PORT, "2")], &[]), 2);
    assert_eq!(port(None, &[("PORT", "5")], &dotenv), 3, "the alias never wins");
}

#[test]
fn each_set_value_has_its_source() {
    let dotenv = [(GRACE, "5"), (HOST, "::1"), (URL, "http://box")];
    let dotenv = dotenv.map(|(name, value)| (name.to_owned(), value.into()));
    let env = lookup(&[(HOST, "127.0.0.1"), (PORT, "2")]);
    let sources = Sources { flags: &[("--port", "1".into())], env, dotenv: &dotenv };
    let set = SETTINGS.iter().filter_map(|setting| sources.set(setting)).map(|given| (given.name, given.source));
    let expected = [(HOST, Source::Environment), ("--port", Source::Flag), (GRACE, Source::Dotenv)];
    assert_eq!(set.collect::<Vec<_>>(), expected);
}

#[test]
fn shared_variable_counts_as_used_only_if_its_value_is_used() {
    let taken = |flags: &[(&'static str, &str)], env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        resolve(flags, env, dotenv).unwrap_or_else(|error| panic!("{error}")).taken_vars
    };
    let none = [];
    let flags = [("--port", "1"), ("--database", "x.db")];
    let env = [("PORT", "5"), (DATABASE, "sqlite:y.db")];
    assert_eq!(taken(&none, &env, &[]), ["PORT", DATABASE]);
    assert_eq!(taken(&flags, &env, &[]), [""; 0]);
    assert_eq!(taken(&none, &env[..1], &[(PORT, "3")]), [""; 0]);
    assert_eq!(taken(&none, &[], &env), [""; 0], "a pipeline does not get what stands in .env anyway");
    assert_eq!(taken(&none, &[(PORT, "5")], &[]), [""; 0]);
}

#[test]
fn every_flag_is_read_and_named_in_its_error() {
    let flags = [("--host", "::1"), ("--port", "1"), ("--runtime-dir", "r")];
    let flags = [&flags[..], &[("--database", "d.db"), ("--root", "root"), ("--script", "s.sh")]].concat();
    let env: Vec<_> = SETTINGS.iter().flat_map(|setting| setting.names).map(|&name| (name, "")).collect();
    let config = resolve(&flags, &env, &[]).expect("all right");
    assert_eq!(SocketAddr::new(config.hosts[0], config.port).to_string(), "[::1]:1");
    assert_eq!(config.runtime_dir, Path::new("/srv/box/r"));
    assert_eq!(config.database, Path::new("/srv/box/d.db"));
    assert_eq!(config.pipeline_root, Path::new("/srv/box/root"));
    assert_eq!(config.pipeline_script.as_deref(), Some("s.sh"));

    let error = resolve(&[("--port", "x")], &[], &[]).expect_err("no port");
    assert_eq!(error.to_string(), "--port=x is not a port: a number from 0 to 65535");
    let error = resolve(&[("--host", "x")], &[], &[]).expect_err("no host");
    assert!(error.to_string().starts_with("--host=x is not an address"));
}

#[test]
fn error_names_dotenv_as_the_source() {
    let error = resolve(&[], &[], &[(PORT, "x")]).expect_err("no port");
    assert_eq!(error.to_string(), "AUTOAPPDEV_PORT=x (in .env) is not a port: a number from 0 to 65535");
}

#[test]
fn several_addresses_and_a_socket_can_be_named() {
    let hosts = |text| good(HOST, text).hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts("127.0.0.1, ::1,,127.0.0.1"), ["127.0.0.1", "::1"]);
    assert_eq!(refusal(HOST, ","), "names no address");
    assert_eq!(good(SOCKET, "off").socket, None);
    assert_eq!(good(SOCKET, "a.sock").socket, Some("/srv/box/a.sock".into()));
    assert_eq!(good(SOCKET, "/run/a.sock").socket, Some("/run/a.sock".into()));
    assert_eq!(good(RUNTIME_DIR, "/r").socket, Some("/r/server.sock".into()), "it goes where the rest goes");
}

#[test]
fn readme_table_is_made_from_the_settings() {
    let head = "| variable | flag | `.env` | default | meaning |\n|---|---|---|---|---|\n";
    let rows = SETTINGS.iter().map(|setting| {
        let (meaning, default) = setting.texts();
        let names = setting.names.join("`, `");
        let flag = setting.flag.map_or_else(String::new, |(flag, ..)| format!("`{flag}`"));
        let dotenv = if setting.is_in_dotenv { "yes" } else { "no" };
        format!("| `{names}` | {flag} | {dotenv} | {default} | {meaning} |\n")
    });
    let table = head.to_owned() + &rows.collect::<String>();
    let readme = include_str!("../../README.md");
    let found = readme.split_once("<!-- settings -->\n").and_then(|(_, rest)| rest.split_once("<!-- end of settings -->"));
    assert!(found.is_some_and(|(found, _)| found == table), "between its markers, README.md must have\n{table}");
}
