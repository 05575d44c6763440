//! The README's systemd unit, checked by systemd itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::not_run;

/// Ten times the limit at which `systemd-analyze security` reports "OK". None of the remaining permissions can be removed for
/// every pipeline.
const EXPOSURE_MAX: u32 = 49;

fn unit() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("there");
    let block = readme.split_once("```ini\n").and_then(|(_, rest)| rest.split_once("```")).expect("a unit").0;
    assert!(block.starts_with("# /etc/systemd/system/autoappdev.service"), "{block}");
    block.to_owned()
}

/// Runs `systemd-analyze` on the unit with `change` applied. Returns whether it succeeded, and its output; `None` if it is not
/// installed.
fn analyze(arguments: &[&str], change: (&str, &str)) -> Option<(bool, String)> {
    let dir = tempfile::tempdir().expect("a temp folder");
    let path = dir.path().join("autoappdev.service");
    // systemd requires the program to exist, but it need not be this one.
    let text = unit().replace("/usr/local/bin/autoappdev", "/bin/true").replace(change.0, change.1);
    fs::write(&path, text).expect("writes");
    let Ok(output) = Command::new("systemd-analyze").args(arguments).arg(&path).output() else {
        not_run("systemd-analyze is not installed (Debian: systemd)", "AUTOAPPDEV_REQUIRE_SYSTEMD");
        return None;
    };
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Some((output.status.success(), said))
}

#[test]
fn systemd_accepts_and_confines_the_readme_unit() {
    let verify = ["verify", "--man=no"];
    let Some((is_good, said)) = analyze(&verify, ("", "")) else { return };
    assert!(is_good && said.trim().is_empty(), "{said}");
    let (_, said) = analyze(&verify, ("UMask=0077", "UMaks=0077")).expect("installed");
    assert!(said.contains("UMaks"), "a misspelt setting is seen: {said}");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let security = ["security", "--offline=true", "--no-pager", &threshold];
    let (is_good, said) = analyze(&security, ("", "")).expect("installed");
    assert!(is_good, "{said}");
    let (is_good, said) = analyze(&security, ("CapabilityBoundingSet=\n", "")).expect("installed");
    assert!(!is_good, "it judges what is set: {said}");
    for setting in ["UMask=0077", "PrivateTmp=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"] {
        assert!(unit().lines().any(|line| line == setting), "{setting}");
    }
}
