//! Tells cargo to build again when a file is added to a folder that is compiled in, passes on the target, strips the release, and computes the
//! migrations' checksums.
//!
//! `embed_migrations!` and `include_dir!` name only the files they found, so a new one would go unseen. refinery computes the checksums too, but
//! it first compiles a regular expression, which took two thirds of the instructions of each start of the server.

use std::error::Error;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::{env, fs};

use refinery_core::Migration;

fn main() -> Result<(), Box<dyn Error>> {
    // A folder's name covers everything below it: https://doc.rust-lang.org/cargo/reference/build-scripts.html#rerun-if-changed
    for folder in ["migrations", "static"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    println!("cargo::rustc-env=BUILD_TARGET={}", env::var("TARGET")?);
    // Strips the release, the only profile without debug information.
    if env::var("DEBUG")? == "false" {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    let mut migrations = Vec::new();
    for entry in fs::read_dir("migrations")? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(OsStr::to_str).filter(|_| path.extension() == Some(OsStr::new("sql"))) {
            migrations.push(Migration::unapplied(name, &fs::read_to_string(&path)?)?);
        }
    }
    migrations.sort();
    let known = migrations.iter().map(|migration| {
        let (version, name) = (migration.version(), migration.name());
        // In groups of four digits, as the lints want a long number.
        let [a, b, c, d] = [48, 32, 16, 0].map(|shift| migration.checksum() >> shift & 0xffff);
        let checksum = format!("0x{a:04x}_{b:04x}_{c:04x}_{d:04x}");
        let sql = format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/migrations/V{version}__{name}.sql\"))");
        format!("    Known {{ version: {version}, name: {name:?}, checksum: {checksum}, sql: {sql} }},\n")
    });
    let known = format!("&[\n{}]\n", known.collect::<String>());
    Ok(fs::write(PathBuf::from(env::var("OUT_DIR")?).join("migrations.rs"), known)?)
}
