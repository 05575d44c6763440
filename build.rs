//! Tells cargo to build again when a file is added to a folder that is compiled in.
//!
//! `embed_migrations!` and `include_dir!` name only the files they found, so a new one would go unseen.

fn main() {
    // A folder's name covers everything below it: https://doc.rust-lang.org/cargo/reference/build-scripts.html#rerun-if-changed
    for folder in ["migrations", "static"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
