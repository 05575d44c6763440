use std::net::SocketAddr;

use super::*;

const CWD: &str = "/srv/box";

/// The setting from flags, environment and `.env`, each as pairs.
fn resolve(flags: &Flags, env: &[(&str, &str)], dotenv: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dotenv: Vec<_> = dotenv.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    Config::resolve(flags, lookup(env), &dotenv, Path::new(CWD))
}

fn lookup<'a>(env: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
}

fn from_env(name: &str, value: &str) -> Result<Config, ConfigError> {
    resolve(&Flags::default(), &[(name, value)], &[])
}

fn good(name: &str, value: &str) -> Config {
    from_env(name, value).unwrap_or_else(|error| panic!("{error}"))
}

/// The refusal of `NAME=value`, after checking that it names both.
fn refusal(name: &str, value: &str) -> String {
    let error = from_env(name, value).expect_err(value).to_string();
    error.strip_prefix(&format!("{name}={value} ")).unwrap_or_else(|| panic!("names neither: {error}")).to_owned()
}

#[test]
fn nothing_set_is_the_documented_default() {
    let config = resolve(&Flags::default(), &[], &[]).expect("defaults are right");
    let expected = Config {
        hosts: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        port: 8788,
        socket: Some("/srv/box/runtime/server.sock".into()),
        runtime_dir: "/srv/box/runtime".into(),
        database: "/srv/box/runtime/autoappdev.db".into(),
        pipeline_root: "/srv/box".into(),
        pipeline_script: None,
        allow_origins: vec![],
        allow_hosts: vec![],
        tokens: Tokens::default(),
        uses_cgroups: true,
        on_term: OnTerm::Auto,
        grace: Duration::from_secs(10),
        log_segment_bytes: 16 << 20,
        log_run_bytes: 256 << 20,
        log_total_bytes: 1024 << 20,
        disk_free_bytes: None,
        runs_keep: 1000,
        runs_keep_for: None,
        taken: Vec::new(),
        notes: vec![],
    };
    assert_eq!(config, expected);
    assert_eq!(SocketAddr::new(config.hosts[0], config.port).to_string(), "127.0.0.1:8788");
}

#[test]
fn a_port_is_a_number_of_sixteen_bits() {
    for (text, port) in [("0", 0), ("1", 1), ("65535", 65535), (" 8080 ", 8080)] {
        assert_eq!(good(PORT, text).port, port, "{text}");
    }
    for text in ["abc", "65536", "-1", "+1", "80a", "8 0", "99999999999999999999"] {
        assert_eq!(refusal(PORT, text), "is not a port: a number from 0 to 65535");
        assert_eq!(refusal(PORT_ALIAS, text), "is not a port: a number from 0 to 65535");
    }
    let error = from_env("AUTOAPPDEV_PORT", "abc").expect_err("no port");
    assert_eq!(error.to_string(), "AUTOAPPDEV_PORT=abc is not a port: a number from 0 to 65535");
}

#[test]
fn an_address_is_a_number_or_localhost() {
    for (text, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.9.1", "127.8.9.1"),
        ("::1", "::1"),
        ("LocalHost", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("192.168.1.5", "192.168.1.5"),
    ] {
        assert_eq!(good(HOST, text).hosts, [host.parse::<IpAddr>().expect("an address")]);
    }
    for text in ["example.org", "127.0.0.1:80", "http://127.0.0.1", "[::1]"] {
        assert!(refusal(HOST, text).starts_with("is not an address: a number such as 127.0.0.1"), "{text}");
    }
}

#[test]
fn tokens_are_good_and_two_and_never_shown() {
    let both = |token, read| resolve(&Flags::default(), &[(TOKEN, token), (READ_TOKEN, read)], &[]);
    assert!(!both("", "").expect("unset").tokens.is_set());
    let tokens = both(" one-that-is-long ", "another-that-is-long").expect("good").tokens;
    assert_eq!(tokens.token.expect("set").expose(), "one-that-is-long");
    assert_eq!(tokens.read_token.expect("set").expose(), "another-that-is-long");
    assert!(good(READ_TOKEN, "another-that-is-long").tokens.is_set());
    for (name, value) in [(TOKEN, "secret-2-short"), (READ_TOKEN, "secret with blanks in it"), (TOKEN, "secret@host-größer-x")]
    {
        let error = from_env(name, value).expect_err(value);
        assert!(error.to_string().starts_with(&format!("{name}=… ")), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        let pair = (name.to_owned(), value.into());
        let error = Tokens::resolve(lookup(&[]), &[pair]).expect_err(value);
        assert!(error.to_string().starts_with(&format!("{name}=… (in .env) ")), "{error}");
    }
    let error = both("secret-that-is-the-same", "secret-that-is-the-same").expect_err("one").to_string();
    assert!(
        error.starts_with("AUTOAPPDEV_READ_TOKEN=… is the same as AUTOAPPDEV_TOKEN") && !error.contains("secret-"),
        "{error}"
    );
    let config = good(TOKEN, "secret-that-is-long");
    assert!(!format!("{config:?}").contains("secret"), "{config:?}");
}

#[test]
fn folders_are_taken_from_the_working_directory() {
    for (text, path) in [("data", "/srv/box/data"), ("./a//b/.", "/srv/box/a/b"), ("/srv/x", "/srv/x"), ("../x", "/srv/box/../x")]
    {
        assert_eq!(good(RUNTIME_DIR, text).runtime_dir, Path::new(path));
        assert_eq!(good(RUNTIME_DIR, text).database, Path::new(path).join("autoappdev.db"));
        assert_eq!(good(ROOT, text).pipeline_root, Path::new(path));
    }
    // A folder's name need not be UTF-8; a script's must be, since the API tells it.
    let bytes = OsStr::from_bytes(b"d\xff");
    let env = |wanted: &'static str| move |name: &str| (name == wanted).then(|| bytes.to_owned());
    let config = Config::resolve(&Flags::default(), env(RUNTIME_DIR), &[], Path::new(CWD)).expect("a path of bytes");
    assert_eq!(config.runtime_dir, Path::new(CWD).join(bytes));
    let error = Config::resolve(&Flags::default(), env(SCRIPT), &[], Path::new(CWD)).expect_err("no text");
    assert_eq!(error.to_string(), "AUTOAPPDEV_PIPELINE_SCRIPT=d\u{fffd} is not UTF-8");
    let error = Config::resolve(&Flags::default(), |name| (name == ROOT).then(|| "a\0b".into()), &[], Path::new(CWD));
    assert_eq!(error.expect_err("NUL").to_string(), "AUTOAPPDEV_PIPELINE_CWD=a\\0b contains a NUL");
}

#[test]
fn a_script_stays_as_it_was_named() {
    assert_eq!(good(SCRIPT, "demo.sh").pipeline_script.as_deref(), Some("demo.sh"));
    assert_eq!(good(SCRIPT, "/srv/demo.sh").pipeline_script.as_deref(), Some("/srv/demo.sh"));
}

#[test]
fn a_database_is_a_file_of_sqlite() {
    for (url, path) in [
        ("sqlite:x.db", "/srv/box/x.db"),
        ("sqlite:./d/x.db", "/srv/box/d/x.db"),
        ("sqlite:/srv/x.db", "/srv/x.db"),
        ("sqlite://x.db", "/srv/box/x.db"),
        ("sqlite:///srv/x.db", "/srv/x.db"),
        ("sqlite:////srv/x.db", "/srv/x.db"),
    ] {
        assert_eq!(good(DATABASE_URL, url).database, Path::new(path), "{url}");
    }
    for url in ["x.db", "/srv/x.db", "sqlite3:x.db", "SQLite:x.db"] {
        assert_eq!(refusal(DATABASE_URL, url), "is not a database this program can use: sqlite:<path> is expected");
    }
    for url in ["sqlite:", "sqlite://"] {
        assert_eq!(refusal(DATABASE_URL, url), "names no file: sqlite:<path> is expected");
    }
    for url in ["sqlite::memory:", "sqlite://:memory:"] {
        assert!(refusal(DATABASE_URL, url).starts_with("would forget everything"));
    }
    assert!(refusal(DATABASE_URL, "sqlite:x.db?mode=ro").starts_with("has options after a question mark"));
}

#[test]
fn database_url_of_another_program_is_ignored() {
    let foreign = ["postgres://me:secret@host/db", "mysql://h/d", "file:./dev.db", "sqlite+aiosqlite:///x.db", "jdbc:sqlite:x"];
    // In the project's file this is every value that is not clearly ours.
    let projects = ["x.db", "sqlite:x.db?mode=rwc", "sqlite::memory:", "sqlite3:x.db", "${OTHER}"];
    let default = Path::new("/srv/box/runtime/autoappdev.db");
    for url in foreign {
        let config = good(DATABASE_URL, url);
        assert_eq!(config.database, default, "{url}");
        assert!(matches!(&*config.notes, [note] if note.contains("in the environment is not used") && !note.contains("secret")));
    }
    for url in foreign.into_iter().chain(projects) {
        let config = resolve(&Flags::default(), &[], &[(DATABASE_URL, url)]).expect(url);
        assert_eq!(config.database, default, "{url}");
        assert!(matches!(&*config.notes, [note] if note.contains("in .env is not used")), "{:?}", config.notes);
    }
    let both = resolve(&Flags::default(), &[(DATABASE_URL, foreign[0])], &[(DATABASE_URL, "sqlite:x.db")]).expect("ours");
    assert_eq!(both.database, Path::new("/srv/box/x.db"));
    assert_eq!(good(DATABASE_URL, "sqlite:x.db").notes, Vec::<String>::new());
}

#[test]
fn port_of_another_program_is_ignored() {
    let port = |name, value| resolve(&Flags::default(), &[], &[(name, value)]).map(|config| config.port);
    assert_eq!(port(PORT_ALIAS, "3000"), Ok(3000));
    for value in ["/dev/ttyUSB0", "${WEB_PORT}", "tcp://10.0.0.1:80"] {
        assert_eq!(port(PORT_ALIAS, value), Ok(PORT_DEFAULT), "{value}");
        assert!(port(PORT, value).is_err(), "this one is ours");
    }
}

#[test]
fn the_database_flag_takes_a_path_too() {
    let with =
        |value: &str| resolve(&Flags { database: Some(value.into()), ..Flags::default() }, &[(DATABASE_URL, "sqlite:e.db")], &[]);
    assert_eq!(with("x.db").expect("a path").database, Path::new("/srv/box/x.db"));
    assert_eq!(with("sqlite:/srv/x.db").expect("a URL").database, Path::new("/srv/x.db"));
    assert_eq!(with("").expect("unset").database, Path::new("/srv/box/e.db"));
    assert!(with("mysql://h/x").expect_err("another scheme").to_string().starts_with("--database=mysql://h/x is not a database"));
}

#[test]
fn a_password_is_not_repeated_in_an_error() {
    let error = from_env(DATABASE_URL, "sqlite3://me:secret@host/db").expect_err("a form that is not known").to_string();
    assert!(error.starts_with("DATABASE_URL=…@host/db is not"), "{error}");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let error = from_env(PORT, "\u{1b}[31m").expect_err("no port").to_string();
    assert!(error.starts_with("AUTOAPPDEV_PORT=\\u{1b}[31m is not"), "{error}");
}

#[test]
fn origins_are_named_one_by_one() {
    for (text, origins) in [
        ("http://localhost:5173", &["http://localhost:5173"][..]),
        ("http://a, https://B.example:8443 ,", &["http://a", "https://b.example:8443"]),
        ("HTTP://a:80,https://a:443,https://a:80", &["http://a", "https://a", "https://a:80"]),
        ("http://[::1]:3000,http://[0:0::1]:3000", &["http://[::1]:3000"]),
        ("chrome-extension://abcdef", &["chrome-extension://abcdef"]),
        (" , ", &[]),
    ] {
        assert_eq!(good(ALLOW_ORIGIN, text).allow_origins, origins, "{text}");
    }
    for text in ["*", "http://*", "https://*.example.org"] {
        assert!(refusal(ALLOW_ORIGIN, text).starts_with("would let any page of the web"), "{text}");
    }
    for text in [
        "null",
        "localhost:5173",
        "http://a/",
        "http://a/path",
        "http://a?x",
        "http://a:0",
        "http://a:",
        "http://a:70000",
        "http://",
        "http:/a",
        "://a",
        "1http://a",
        "http://[::1",
        "http://[x]",
        "http://[::1]x",
        "http://a b",
    ] {
        assert_eq!(refusal(ALLOW_ORIGIN, text), "is not an origin: scheme://host[:port] without a path", "{text}");
    }
    let error = from_env(ALLOW_ORIGIN, "http://a,bad").expect_err("the second is wrong").to_string();
    assert!(error.starts_with("AUTOAPPDEV_ALLOW_ORIGIN=bad is not an origin"), "{error}");
}

#[test]
fn hosts_are_names_without_a_port() {
    assert_eq!(good(ALLOW_HOST, "Box.local, 10.0.0.5,[FD00::1]").allow_hosts, ["box.local", "10.0.0.5", "[fd00::1]"]);
    assert!(refusal(ALLOW_HOST, "*").starts_with("would let any name"));
    for text in ["box:8788", "http://box", "box/x", "a b", "fd00::1"] {
        assert_eq!(refusal(ALLOW_HOST, text), "is not a host: a name or an address, without scheme and port", "{text}");
    }
}

#[test]
fn a_grace_is_at_most_an_hour() {
    for (text, ms) in [("0", 0), ("10", 10_000), ("2.5", 2500), (".5", 500), ("3600", 3_600_000)] {
        assert_eq!(good(GRACE, text).grace, Duration::from_millis(ms), "{text}");
    }
    for text in ["3600.1", "-1", "NaN", "inf", "1e2", "ten", "10s", "."] {
        assert_eq!(refusal(GRACE, text), "is not a grace: seconds from 0 to 3600, fractions allowed", "{text}");
    }
}

#[test]
fn on_term_is_leave_or_stop() {
    assert_eq!(good(ON_TERM, "leave").on_term, OnTerm::Leave);
    assert_eq!(good(ON_TERM, "stop").on_term, OnTerm::Stop);
    for text in ["auto", "kill", "STOP", "stop,leave"] {
        assert!(refusal(ON_TERM, text).starts_with("is neither leave"), "{text}");
    }
}

#[test]
fn a_containment_is_auto_or_tree() {
    assert!(resolve(&Flags::default(), &[], &[]).expect("defaults").uses_cgroups);
    assert!(good(CONTAINMENT, "auto").uses_cgroups);
    assert!(!good(CONTAINMENT, "tree").uses_cgroups);
    for text in ["cgroup", "none", "AUTO", "tree,auto"] {
        assert!(refusal(CONTAINMENT, text).starts_with("is not a containment: auto"), "{text}");
    }
}

#[test]
fn a_run_has_room_for_at_least_one_segment() {
    let both = |segment, run| resolve(&Flags::default(), &[(LOG_SEGMENT, segment), (LOG_RUN, run)], &[]);
    assert_eq!(good(LOG_SEGMENT, "1").log_segment_bytes, 1 << 20);
    assert_eq!(good(LOG_SEGMENT, "1024").log_segment_bytes, 1 << 30);
    assert_eq!(good(LOG_SEGMENT, "512").log_run_bytes, 512 << 20, "the default grows with the segment");
    assert_eq!(good(LOG_RUN, "16").log_run_bytes, 16 << 20);
    assert_eq!(both("8", "8").expect("one segment").log_run_bytes, 8 << 20);
    for text in ["0", "1025", "1.5", "x", "-1"] {
        assert_eq!(refusal(LOG_SEGMENT, text), "is not a size: a whole number of MiB from 1 to 1024", "{text}");
    }
    for text in ["15", "x", "1048577"] {
        let sentence = "is not a size: a whole number of MiB from 16 to 1048576; a segment takes 16 of them";
        assert_eq!(refusal(LOG_RUN, text), sentence, "{text}");
    }
    assert!(both("8", "7").is_err());
}

#[test]
fn all_logs_have_room_for_at_least_one_runs() {
    let both = |run, total| resolve(&Flags::default(), &[(LOG_RUN, run), (LOG_TOTAL, total)], &[]);
    assert_eq!(good(LOG_TOTAL, "256").log_total_bytes, 256 << 20);
    assert_eq!(good(LOG_RUN, "4096").log_total_bytes, 4096 << 20, "the default grows with a run's");
    assert_eq!(both("300", "300").expect("one run").log_total_bytes, 300 << 20);
    for text in ["255", "x", "16777217"] {
        let sentence = "is not a size: a whole number of MiB from 256 to 16777216; one run's log may take 256 of them";
        assert_eq!(refusal(LOG_TOTAL, text), sentence, "{text}");
    }
    assert!(both("300", "299").is_err());
}

#[test]
fn disk_free_setting_is_in_mebibytes_and_0_turns_it_off() {
    assert_eq!(good(DISK_FREE, "0").disk_free_bytes, Some(0));
    assert_eq!(good(DISK_FREE, "500").disk_free_bytes, Some(500 << 20));
    assert_eq!(good(DISK_FREE, "").disk_free_bytes, None);
    for text in ["-1", "0.5", "15%", "off", "16777217"] {
        assert_eq!(refusal(DISK_FREE, text), "is not a size: a whole number of MiB from 0 to 16777216", "{text}");
    }
}

#[test]
fn at_least_one_run_is_kept_for_at_least_a_day() {
    assert_eq!(good(RUNS_KEEP, "1").runs_keep, 1);
    assert_eq!(good(RUNS_KEEP, "1000000").runs_keep, 1_000_000);
    assert_eq!(good(RUNS_KEEP_DAYS, "30").runs_keep_for, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(good(RUNS_KEEP_DAYS, "").runs_keep_for, None);
    for text in ["0", "1000001", "-1", "all"] {
        assert_eq!(refusal(RUNS_KEEP, text), "is not a number of runs: a whole number from 1 to 1000000", "{text}");
    }
    for text in ["0", "36501", "0.5", "30d"] {
        assert_eq!(refusal(RUNS_KEEP_DAYS, text), "is not a number of days: a whole number from 1 to 36500", "{text}");
    }
}

#[test]
fn flags_go_before_the_environment_before_dotenv_before_defaults() {
    let port = |flag: Option<&str>, env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        let flags = Flags { port: flag.map(OsString::from), ..Flags::default() };
        resolve(&flags, env, dotenv).unwrap_or_else(|error| panic!("{error}")).port
    };
    let (env, dotenv) = ([(PORT, "2")], [(PORT, "3")]);
    assert_eq!(port(Some("1"), &env, &dotenv), 1);
    assert_eq!(port(None, &env, &dotenv), 2);
    assert_eq!(port(None, &[], &dotenv), 3);
    assert_eq!(port(None, &[], &[]), PORT_DEFAULT);
    assert_eq!(port(Some(""), &[(PORT, "")], &dotenv), 3, "empty counts as unset");
    assert_eq!(port(None, &[], &[(PORT, "3"), (PORT, "4")]), 4, "the later line counts");
    assert_eq!(port(None, &[(PORT_ALIAS, "5")], &[]), 5);
    assert_eq!(port(None, &[(PORT_ALIAS, "5"), (PORT, "2")], &[]), 2);
    assert_eq!(port(None, &[(PORT_ALIAS, "5")], &dotenv), 3, "the alias never wins");
}

#[test]
fn shared_variable_counts_as_used_only_if_its_value_is_used() {
    let taken = |flags: &Flags, env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        resolve(flags, env, dotenv).unwrap_or_else(|error| panic!("{error}")).taken
    };
    let none = Flags::default();
    let flags = Flags { port: Some("1".into()), database: Some("x.db".into()), ..Flags::default() };
    let env = [(PORT_ALIAS, "5"), (DATABASE_URL, "sqlite:y.db")];
    assert_eq!(taken(&none, &env, &[]), [PORT_ALIAS, DATABASE_URL]);
    assert_eq!(taken(&flags, &env, &[]), [""; 0]);
    assert_eq!(taken(&none, &env[..1], &[(PORT, "3")]), [""; 0]);
    assert_eq!(taken(&none, &[], &env), [""; 0], "a pipeline does not get what stands in .env anyway");
    assert_eq!(taken(&none, &[(PORT, "5")], &[]), [""; 0]);
}

#[test]
fn every_flag_is_read_and_named_in_its_error() {
    let flags = Flags {
        host: Some("::1".into()),
        port: Some("1".into()),
        runtime_dir: Some("r".into()),
        database: Some("d.db".into()),
        root: Some("root".into()),
        script: Some("s.sh".into()),
    };
    let env: Vec<_> = NAMES.iter().map(|&name| (name, "")).collect();
    let config = resolve(&flags, &env, &[]).expect("all right");
    assert_eq!(SocketAddr::new(config.hosts[0], config.port).to_string(), "[::1]:1");
    assert_eq!(config.runtime_dir, Path::new("/srv/box/r"));
    assert_eq!(config.database, Path::new("/srv/box/d.db"));
    assert_eq!(config.pipeline_root, Path::new("/srv/box/root"));
    assert_eq!(config.pipeline_script.as_deref(), Some("s.sh"));

    let error = resolve(&Flags { port: Some("x".into()), ..Flags::default() }, &[], &[]).expect_err("no port");
    assert_eq!(error.to_string(), "--port=x is not a port: a number from 0 to 65535");
    let error = resolve(&Flags { host: Some("x".into()), ..Flags::default() }, &[], &[]).expect_err("no host");
    assert!(error.to_string().starts_with("--host=x is not an address"));
}

#[test]
fn an_error_says_that_the_value_stands_in_dotenv() {
    let error = resolve(&Flags::default(), &[], &[(PORT, "x")]).expect_err("no port");
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

/// The folder in which a client looks.
fn folder(env: &[(&str, &str)], dotenv: &[(&str, &str)]) -> Folder {
    let dotenv: Vec<_> = dotenv.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    match Endpoint::resolve(lookup(env), &dotenv, Path::new(CWD)).expect("right") {
        Endpoint::Folder(folder) => folder,
        Endpoint::Url(url) => panic!("{url}"),
    }
}

#[test]
fn a_client_reads_only_what_finds_the_server() {
    let find = |env: &[(&str, &str)]| Endpoint::resolve(lookup(env), &[], Path::new(CWD));
    let usual = Folder {
        project: CWD.into(),
        runtime_dir: "/srv/box/runtime".into(),
        socket: Some("/srv/box/runtime/server.sock".into()),
        named_socket: None,
        named_address: None,
        usual_address: Some(SocketAddr::from(([127, 0, 0, 1], 8788))),
        url_in_dotenv: None,
    };
    assert_eq!(folder(&[], &[]), usual);
    let elsewhere = Folder {
        project: "/srv/box/r".into(),
        runtime_dir: "/srv/box/r".into(),
        socket: Some("/srv/box/r/server.sock".into()),
        ..usual
    };
    let wrong = [(RUNTIME_DIR, "r"), (GRACE, "wrong"), (DATABASE_URL, "/srv/x.db")];
    assert_eq!(folder(&wrong, &[]), elsewhere, "what is wrong does not matter here");
    assert!(find(&[(PORT, "x")]).is_err());

    for (text, url) in
        [("http://127.0.0.1:1", "http://127.0.0.1:1"), ("HTTP://Box/", "http://box"), ("http://[::1]:80", "http://[::1]:80")]
    {
        assert_eq!(find(&[(URL, text), (PORT, "x")]), Ok(Endpoint::Url(url.to_owned())), "nothing else counts");
    }
    for text in ["box", "ftp://box", "http://box/x", "http://box:x", "http:box", "http://"] {
        let error = find(&[(URL, text)]).expect_err(text).to_string();
        assert_eq!(error, format!("AUTOAPPDEV_URL={text} is not a server's address: http://HOST[:PORT] without a path"));
    }
    let error = find(&[(URL, "https://box")]).expect_err("no TLS here").to_string();
    assert!(error.contains("asks for TLS"), "{error}");
}

#[test]
fn dotenv_and_defaults_name_no_address() {
    let named = |env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        folder(env, dotenv).named_address.map_or_else(String::new, |address| address.to_string())
    };
    for (env, address) in [
        (&[][..], ""),
        (&[(PORT, "9000")], "127.0.0.1:9000"),
        (&[(PORT, "9000"), (HOST, "::1,127.0.0.1")], "[::1]:9000"),
        (&[(PORT, "9000"), (HOST, "0.0.0.0")], "0.0.0.0:9000"),
        (&[(HOST, "192.168.1.5")], "192.168.1.5:8788"),
        (&[(HOST, "192.168.1.5"), (PORT_ALIAS, "80")], "192.168.1.5:80"),
        // No server in particular.
        (&[(PORT, "0"), (HOST, "127.0.0.1")], ""),
        (&[(HOST, "0.0.0.0")], ""),
        (&[(PORT_ALIAS, "9000")], ""),
    ] {
        assert_eq!(named(env, &[]), address, "{env:?}");
    }
    let dotenv = [(PORT, "9000"), (HOST, "192.168.1.5"), (SOCKET, "/s"), (URL, "http://box")];
    assert_eq!(named(&[], &dotenv), "");
    assert_eq!(named(&[(PORT, "80")], &dotenv), "127.0.0.1:80", "a folder names no host");
    assert_eq!(named(&[(HOST, "127.0.0.1")], &dotenv), "", "and no port");
    let found = folder(&[], &dotenv);
    assert_eq!((found.socket.as_deref(), found.named_socket), (Some(Path::new("/s")), None));
    assert_eq!(found.usual_address.map(|address| address.to_string()).as_deref(), Some("192.168.1.5:9000"));
    assert_eq!(found.url_in_dotenv.as_deref(), Some("http://box"));
    let found = folder(&[(SOCKET, "/s")], &[]);
    assert_eq!((found.socket, found.named_socket.as_deref()), (None, Some(Path::new("/s"))));
}
