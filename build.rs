//! Tells cargo to build again when a file is added to a folder that is compiled in, passes on the target, strips the release,
//! computes the checksums of the migrations, and packs the page's files.
//!
//! `embed_migrations!` and `include_dir!` name only the files that they found, so a new file would be missed. refinery also
//! computes the checksums, but it first compiles a regular expression, which took two thirds of the instructions of each start
//! of the server.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs};

use refinery_core::Migration;

#[path = "src/web/bundle.rs"]
mod bundle;

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
    let out = PathBuf::from(env::var("OUT_DIR")?);
    pack_page(&out.join("page"))?;
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
        // In groups of four digits, as the lints require for a long number.
        let [a, b, c, d] = [48, 32, 16, 0].map(|shift| migration.checksum() >> shift & 0xffff);
        let checksum = format!("0x{a:04x}_{b:04x}_{c:04x}_{d:04x}");
        let sql = format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/migrations/V{version}__{name}.sql\"))");
        format!("    Known {{ version: {version}, name: {name:?}, checksum: {checksum}, sql: {sql} }},\n")
    });
    let known = format!("&[\n{}]\n", known.collect::<String>());
    Ok(fs::write(out.join("migrations.rs"), known)?)
}

/// Packs the page's files into `folder` as they are sent: as small as possible, because that takes a second and is done once.
fn pack_page(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir("static")? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).ok_or("static/ has a name that is no text")?;
        sources.insert(name.to_owned(), fs::read_to_string(&path)?);
    }
    fs::remove_dir_all(folder).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    fs::create_dir_all(folder)?;
    for (name, text) in bundle::bundle(&sources).map_err(|wrong| format!("static/{wrong}"))? {
        let mut packed = Vec::new();
        zopfli::compress(zopfli::Options::default(), zopfli::Format::Gzip, text.as_bytes(), &mut packed)?;
        fs::write(folder.join(format!("{name}.gz")), packed)?;
    }
    Ok(())
}
