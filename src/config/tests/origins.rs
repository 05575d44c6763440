//! The sources that each setting may come from, in particular a `.env` file that other users can have written.

use super::*;
use crate::config::sources::refuse_guarded;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, OsString)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect()
}

#[test]
fn guarded_settings_are_refused_from_writable_dotenv() {
    let good = "a-token-of-the-clone";
    let guarded = [
        (HOST, "0.0.0.0"),
        (PORT, "1"),
        ("PORT", "1"),
        (SOCKET, "/tmp/s"),
        (RUNTIME_DIR, "/tmp/r"),
        (DATABASE, "sqlite:/tmp/d"),
        (ROOT, "/tmp"),
        (ALLOW_ORIGIN, "http://evil"),
        (ALLOW_HOST, "evil"),
        (TOKEN, good),
        (READ_TOKEN, good),
    ];
    let problem = (Path::new("/p/.env"), "every user can write to it");
    let refused = |flags: &[Flag], env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        refuse_guarded(flags, lookup(env), &pairs(dotenv), problem).map_err(|error| error.to_string())
    };
    for (name, value) in guarded {
        let error = refused(&[], &[], &[(name, value)]).expect_err(name);
        assert!(error.starts_with(&format!("{name} in /p/.env is not used, because every user can write to it; ")), "{error}");
        assert!(error.contains("chmod go-w .env") && !error.contains(good), "{error}");
        if name != "PORT" {
            assert_eq!(refused(&[], &[(name, value)], &[(name, value)]), Ok(()), "the environment goes first: {name}");
        }
    }
    assert_eq!(refused(&[("--host", "::1".into())], &[], &[(HOST, "0.0.0.0")]), Ok(()), "a flag goes first");
    assert!(
        refused(&[], &[], &[(HOST, "::"), (TOKEN, good)]).expect_err("both").starts_with("AUTOAPPDEV_HOST, AUTOAPPDEV_TOKEN in")
    );
    // Settings that decide how the pipeline runs, and variables of other programs.
    let free = [
        (SCRIPT, "a.sh"),
        (GRACE, "1"),
        (ON_TERM, "stop"),
        (DATABASE, "postgres://h/d"),
        ("PORT", "/dev/ttyUSB0"),
        (URL, "http://x"),
    ];
    assert_eq!(refused(&[], &[], &free), Ok(()));
    let is_free = |setting: &&&setting::Setting| !setting.is_guarded && setting.is_in_dotenv;
    let unguarded: Vec<_> = SETTINGS.iter().filter(is_free).map(|setting| setting.names[0]).collect();
    let expected =
        [SCRIPT, CONTAINMENT, USAGE, ON_TERM, GRACE, LOG_SEGMENT, LOG_RUN, LOG_TOTAL, DISK_FREE, RUNS_KEEP, RUNS_KEEP_DAYS];
    assert_eq!(unguarded, expected, "a new setting is guarded, or stands here on purpose");
}

#[test]
fn used_settings_are_listed_by_source_without_values() {
    let token = "a-token-that-is-not-shown";
    let config = resolve(&[("--port", "1")], &[(TOKEN, token), ("PORT", "7")], &[(HOST, "::1"), (GRACE, "5")]).expect("good");
    assert_eq!(
        config.taken,
        ["settings from /srv/box/.env: AUTOAPPDEV_HOST, AUTOAPPDEV_GRACE_S", "settings from the environment: AUTOAPPDEV_TOKEN"]
    );
}

#[test]
fn each_token_has_its_origin() {
    let (one, other) = ("a-token-of-somebody", "a-token-of-the-other");
    let origins = |env: &[(&str, &str)], dotenv: &[(&str, &str)]| {
        let FoundTokens { token, read_token, .. } =
            FoundTokens::resolve(lookup(env), &pairs(dotenv), Path::new(CWD)).expect("good");
        [token, read_token].map(|found| found.map(|found| found.origin))
    };
    assert_eq!(
        origins(&[(TOKEN, one)], &[(TOKEN, other), (READ_TOKEN, other)]),
        [Some(Origin::Environment), Some(Origin::Dotenv)]
    );
    assert_eq!(origins(&[(TOKEN, "")], &[(TOKEN, other)]), [Some(Origin::Dotenv), None], "empty counts as unset");
    assert_eq!(origins(&[], &[]), [None, None]);
}
