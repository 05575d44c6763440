use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[test]
fn port_is_a_16_bit_number() {
    for (text, port) in [("0", 0), ("1", 1), ("65535", 65535), (" 8080 ", 8080)] {
        assert_eq!(good(PORT, text).port, port, "{text}");
    }
    for text in ["abc", "65536", "-1", "+1", "80a", "8 0", "99999999999999999999"] {
        assert_eq!(refusal(PORT, text), "is not a port: a number from 0 to 65535");
        assert_eq!(refusal("PORT", text), "is not a port: a number from 0 to 65535");
    }
    let error = from_env("AUTOAPPDEV_PORT", "abc").expect_err("no port");
    assert_eq!(error.to_string(), "AUTOAPPDEV_PORT=abc is not a port: a number from 0 to 65535");
}

#[test]
fn host_is_an_ip_address_or_localhost() {
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
fn tokens_are_validated_distinct_and_never_shown() {
    let both = |token, read| resolve(&[], &[(TOKEN, token), (READ_TOKEN, read)], &[]);
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
        let error = FoundTokens::resolve(lookup(&[]), &[pair], Path::new(CWD)).expect_err(value);
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
fn relative_folders_resolve_against_the_working_directory() {
    for (text, path) in [("data", "/srv/box/data"), ("./a//b/.", "/srv/box/a/b"), ("/srv/x", "/srv/x"), ("../x", "/srv/box/../x")]
    {
        assert_eq!(good(RUNTIME_DIR, text).runtime_dir, Path::new(path));
        assert_eq!(good(RUNTIME_DIR, text).database, Path::new(path).join("autoappdev.db"));
        assert_eq!(good(ROOT, text).pipeline_root, Path::new(path));
    }
    // The name of a folder does not have to be UTF-8. That of a script does, because the API shows it.
    let bytes = OsStr::from_bytes(b"d\xff");
    let env = |wanted: &'static str| move |name: &str| (name == wanted).then(|| bytes.to_owned());
    let config = Config::resolve(&[], env(RUNTIME_DIR), &[], Path::new(CWD)).expect("a path of bytes");
    assert_eq!(config.runtime_dir, Path::new(CWD).join(bytes));
    let error = Config::resolve(&[], env(SCRIPT), &[], Path::new(CWD)).expect_err("no text");
    assert_eq!(error.to_string(), "AUTOAPPDEV_PIPELINE_SCRIPT=d\u{fffd} is not UTF-8");
    let error = Config::resolve(&[], |name| (name == ROOT).then(|| "a\0b".into()), &[], Path::new(CWD));
    assert_eq!(error.expect_err("NUL").to_string(), "AUTOAPPDEV_PIPELINE_CWD=a\\0b contains a NUL");
}

#[test]
fn script_name_is_kept_unchanged() {
    assert_eq!(good(SCRIPT, "demo.sh").pipeline_script.as_deref(), Some("demo.sh"));
    assert_eq!(good(SCRIPT, "/srv/demo.sh").pipeline_script.as_deref(), Some("/srv/demo.sh"));
}

#[test]
fn database_url_names_a_sqlite_file() {
    for (url, path) in [
        ("sqlite:x.db", "/srv/box/x.db"),
        ("sqlite:./d/x.db", "/srv/box/d/x.db"),
        ("sqlite:/srv/x.db", "/srv/x.db"),
        ("sqlite://x.db", "/srv/box/x.db"),
        ("sqlite:///srv/x.db", "/srv/x.db"),
        ("sqlite:////srv/x.db", "/srv/x.db"),
    ] {
        assert_eq!(good(DATABASE, url).database, Path::new(path), "{url}");
    }
    for url in ["x.db", "/srv/x.db", "sqlite3:x.db", "SQLite:x.db"] {
        assert_eq!(refusal(DATABASE, url), "is not a database this program can use: sqlite:<path> is expected");
    }
    for url in ["sqlite:", "sqlite://"] {
        assert_eq!(refusal(DATABASE, url), "names no file: sqlite:<path> is expected");
    }
    for url in ["sqlite::memory:", "sqlite://:memory:"] {
        assert!(refusal(DATABASE, url).starts_with("would lose everything"));
    }
    assert!(refusal(DATABASE, "sqlite:x.db?mode=ro").starts_with("has options after a question mark"));
}

#[test]
fn database_flag_accepts_a_path() {
    let with = |value| resolve(&[("--database", value)], &[(DATABASE, "sqlite:e.db")], &[]);
    assert_eq!(with("x.db").expect("a path").database, Path::new("/srv/box/x.db"));
    assert_eq!(with("sqlite:/srv/x.db").expect("a URL").database, Path::new("/srv/x.db"));
    assert_eq!(with("").expect("unset").database, Path::new("/srv/box/e.db"));
    assert!(with("mysql://h/x").expect_err("another scheme").to_string().starts_with("--database=mysql://h/x is not a database"));
}

#[test]
fn origins_are_parsed_and_wildcards_refused() {
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
    assert!(refusal(ALLOW_HOST, "*").starts_with("would accept every host name"));
    for text in ["box:8788", "http://box", "box/x", "a b", "fd00::1"] {
        assert_eq!(refusal(ALLOW_HOST, text), "is not a host: a name or an address, without scheme and port", "{text}");
    }
}

#[test]
fn grace_is_at_most_an_hour() {
    for (text, ms) in [("0", 0), ("10", 10_000), ("2.5", 2500), (".5", 500), ("3600", 3_600_000)] {
        assert_eq!(good(GRACE, text).grace, Duration::from_millis(ms), "{text}");
    }
    for text in ["3600.1", "-1", "NaN", "inf", "1e2", "ten", "10s", "."] {
        assert_eq!(refusal(GRACE, text), "is not a grace period: give seconds from 0 to 3600, fractions allowed", "{text}");
    }
}

#[test]
fn usage_interval_is_zero_to_3600_whole_seconds() {
    assert_eq!(resolve(&[], &[], &[]).expect("defaults").usage_every, Duration::from_secs(10));
    for (text, seconds) in [("0", 0), ("1", 1), ("3600", 3600)] {
        assert_eq!(good(USAGE, text).usage_every, Duration::from_secs(seconds), "{text}");
    }
    for text in ["3601", "-1", "0.5", "off"] {
        assert_eq!(refusal(USAGE, text), "is not a number of seconds: a whole number from 0 to 3600", "{text}");
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
fn containment_is_auto_or_tree() {
    assert!(resolve(&[], &[], &[]).expect("defaults").uses_cgroups);
    assert!(good(CONTAINMENT, "auto").uses_cgroups);
    assert!(!good(CONTAINMENT, "tree").uses_cgroups);
    for text in ["cgroup", "none", "AUTO", "tree,auto"] {
        assert!(refusal(CONTAINMENT, text).starts_with("is not a containment mode: use auto"), "{text}");
    }
}

#[test]
fn keep_env_is_names_or_values() {
    assert!(!resolve(&[], &[], &[]).expect("defaults").keeps_env_values);
    assert!(!good(KEEP_ENV, "names").keeps_env_values);
    assert!(good(KEEP_ENV, "values").keeps_env_values);
    for text in ["all", "none", "VALUES", "1"] {
        assert!(refusal(KEEP_ENV, text).starts_with("is neither names"), "{text}");
    }
}

#[test]
fn run_log_limit_holds_at_least_one_segment() {
    let both = |segment, run| resolve(&[], &[(LOG_SEGMENT, segment), (LOG_RUN, run)], &[]);
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
fn total_log_limit_holds_at_least_one_run() {
    let both = |run, total| resolve(&[], &[(LOG_RUN, run), (LOG_TOTAL, total)], &[]);
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
fn trusted_groups_are_numbers_or_names_of_the_environment() {
    let groups = |text: &str| {
        let env = |name: &str| (name == TRUSTED_GROUPS).then(|| text.into());
        trusted_groups(env, |name| (name == "team").then_some(50)).map_err(|error| error.to_string())
    };
    assert_eq!(groups("team, 1000,0"), Ok(vec![50, 1000, 0]));
    assert_eq!(groups(""), Ok(vec![]));
    for (text, shown) in [("teem", "teem"), ("0,-1", "-1"), ("4294967296", "4294967296"), ("a b", "a b"), ("\u{1b}", "\\u{1b}")] {
        let sentence = "is not a group of /etc/group; give the number of a group that is defined elsewhere";
        assert_eq!(groups(text), Err(format!("AUTOAPPDEV_TRUSTED_GROUPS={shown} {sentence}")));
    }
}
