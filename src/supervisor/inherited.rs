//! The part of the server's environment that a pipeline inherits: the user's variables, without those that were set to start the
//! server.

use std::ffi::{OsStr, OsString};

use crate::config::is_for_server_only;

/// The variables that a service manager sets for the process that it started (`sd_notify(3)`, `sd_listen_fds(3)`). A pipeline
/// that used them would act as the server.
const SERVICE_MANAGER: &[&str] =
    &["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The variables that `make` sets for the commands of its recipes (GNU make manual, "Communicating Options to a Sub-make"). A
/// `make` in the pipeline would use those options, and expect the job server on descriptors that do not exist.
const MAKE: &[&str] =
    &["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MAKE_RESTARTS", "MAKE_TERMOUT", "MAKE_TERMERR", "GNUMAKEFLAGS"];

/// The variables that `cargo run` sets for the program, and rustup for cargo. A `cargo` in the pipeline would build with this
/// program's toolchain.
const CARGO: &[&str] = &[
    "CARGO",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];
const CARGO_PACKAGE_PREFIX: &str = "CARGO_PKG_";

/// Returns the names in `environment` that a pipeline must not get. `taken` are the shared names from which the server took a
/// setting.
pub(super) fn not_for_pipelines(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    taken: &[&'static str],
) -> Vec<OsString> {
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    // A user may have set MAKEFLAGS permanently. MAKELEVEL exists only within a recipe, where make has set all of these
    // variables.
    let is_in_make = environment.iter().any(|(name, _)| name == "MAKELEVEL");
    let is_in_cargo = environment.iter().any(|(name, value)| name == "CARGO_PKG_NAME" && value == env!("CARGO_PKG_NAME"));
    let is_of = |names: &[&str], name: &OsStr| names.iter().any(|of| name == *of);
    let names = environment.into_iter().map(|(name, _)| name);
    names
        .filter(|name| {
            is_for_server_only(name)
                || is_of(SERVICE_MANAGER, name)
                || is_of(taken, name)
                || (is_in_make && is_of(MAKE, name))
                || (is_in_cargo && (is_of(CARGO, name) || name.as_encoded_bytes().starts_with(CARGO_PACKAGE_PREFIX.as_bytes())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    fn removed(environment: &[(&str, &str)], taken: &[&'static str]) -> Vec<String> {
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let names = not_for_pipelines(environment, taken);
        names.into_iter().map(|name| name.into_string().expect("text")).collect()
    }

    #[test]
    fn pipeline_environment_lacks_settings_and_secrets_of_the_server() {
        let names: Vec<&str> = SETTINGS.iter().flat_map(|setting| setting.names).copied().collect();
        let environment = names.iter().map(|name| (*name, "x")).collect::<Vec<_>>();
        let removed = removed(&environment, &[]);
        for name in &names {
            let is_kept =
                ["AUTOAPPDEV_RUNTIME_DIR", "AUTOAPPDEV_TRUSTED_GROUPS", "AUTOAPPDEV_URL", "PORT", "DATABASE_URL"].contains(name);
            assert_eq!(removed.iter().any(|removed| removed == name), !is_kept, "{name}");
        }
        assert_eq!(self::removed(&[("AUTOAPPDEV_OF_MINE", "1"), ("HOME", "/")], &[]), [""; 0]);
    }

    #[test]
    fn pipeline_loses_a_shared_variable_only_if_the_server_used_it() {
        let environment = [("PORT", "9000"), ("DATABASE_URL", "sqlite:x")];
        assert_eq!(removed(&environment, &["PORT"]), ["PORT"]);
        assert_eq!(removed(&environment, &["DATABASE_URL"]), ["DATABASE_URL"]);
    }

    #[test]
    fn make_variables_are_removed_only_within_a_recipe() {
        let flags = [("MAKEFLAGS", "-j8"), ("MFLAGS", "-j8"), ("PATH", "/bin")];
        assert_eq!(removed(&flags, &[]), [""; 0], "a user's own");
        let in_recipe = [&flags[..], &[("MAKELEVEL", "1"), ("MAKE_TERMOUT", "/dev/pts/0")]].concat();
        assert_eq!(removed(&in_recipe, &[]), ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE_TERMOUT"]);
    }

    #[test]
    fn cargo_variables_are_removed_only_if_cargo_runs_this_program() {
        let environment =
            |package| [("CARGO_PKG_NAME", package), ("CARGO_PKG_VERSION", "1"), ("CARGO", "/c"), ("CARGO_HOME", "/h")];
        assert_eq!(removed(&environment("autoappdev"), &[]), ["CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO"]);
        assert_eq!(removed(&environment("another"), &[]), [""; 0]);
    }
}
