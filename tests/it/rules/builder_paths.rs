//! The output of `make build` does not contain the builder's directories. Tested with a small package instead of this one, whose
//! release build takes minutes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Writes a package with a dependency that can panic. The dependency is in Cargo's directory, as one from a registry would be.
fn write_packages(home: &Path) {
    let dependency = home.join(".cargo/registry/src/index/panics-1.0.0");
    let files = [
        (dependency.join("Cargo.toml"), "[package]\nname = \"panics\"\nversion = \"1.0.0\"\nedition = \"2024\"\n".to_owned()),
        (dependency.join("src/lib.rs"), "pub fn panics(n: Option<u8>) -> u8 { n.unwrap() }\n".to_owned()),
        (
            home.join("work/Cargo.toml"),
            format!(
                "[package]\nname = \"small\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\npanics = {{ path = \"{}\" }}\n\
                 [profile.release]\nstrip = true\n",
                dependency.display()
            ),
        ),
        (home.join("work/src/main.rs"), "fn main() { panics::panics(std::env::args().next().map(|_| 1)); }\n".to_owned()),
        (
            home.join("work/Cargo.lock"),
            "version = 4\n[[package]]\nname = \"panics\"\nversion = \"1.0.0\"\n[[package]]\nname = \"small\"\nversion = \"1.0.0\"\ndependencies = [\"panics\"]\n"
                .to_owned(),
        ),
        // The program that make runs in place of Cargo.
        (home.join("cargo"), "#!/bin/sh\ncd \"$HOME/work\" && exec \"$REAL_CARGO\" \"$@\"\n".to_owned()),
    ];
    for (path, text) in files {
        fs::create_dir_all(path.parent().expect("has one")).expect("creates");
        fs::write(path, text).expect("writes");
    }
    fs::set_permissions(home.join("cargo"), fs::Permissions::from_mode(0o755)).expect("ours");
}

#[test]
fn release_binary_does_not_contain_builder_paths() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let home = dir.path().join("home-of-the-builder");
    fs::create_dir(&home).expect("creates");
    write_packages(&home);
    let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), std::path::PathBuf::from);
    // `rustc` is set because, with another home, rustup would search for its toolchains there.
    let rustc = cargo.with_file_name("rustc");
    let build = |program: &Path, args: &[&str], target: &str| {
        let mut command = Command::new(program);
        command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env("HOME", &home).env("REAL_CARGO", &cargo);
        for name in ["CARGO_HOME", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "MAKEFLAGS", "MAKELEVEL"] {
            command.env_remove(name);
        }
        if rustc.is_file() {
            command.env("RUSTC", &rustc);
        }
        let target = home.join(target);
        let output = command.env("CARGO_TARGET_DIR", &target).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let binary = fs::read(target.join("release/small")).expect("built");
        memchr::memmem::find(&binary, b"home-of-the-builder").is_some()
    };
    let script = home.join("cargo");
    let script = script.to_str().expect("text");
    assert!(
        build(Path::new(script), &["build", "--release", "--locked"], "plain"),
        "without the Makefile it names them: this test can fail"
    );
    assert!(!build(Path::new("make"), &["binary", &format!("CARGO={script}")], "made"), "a path of the builder is in the binary");
}
