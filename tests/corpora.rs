//! Runs every input of the fuzzer's corpora through its target, without the fuzzer: the named files in a target's folder, and the
//! inputs that the fuzzer found, in the archive beside the folder. A file that is added is run without further changes.

#[path = "fuzz/targets/mod.rs"]
#[expect(unreachable_pub, reason = "in the fuzzer's crate they are a library")]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// Returns the names in a folder, without their extensions.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.expect("there").path().file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}

/// Returns how many files a target's corpus has. Panics with the names of those that break a property.
fn run_corpus(name: &str, target: targets::Target, corpus: &Path) -> usize {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus).expect("a folder").map(|entry| entry.expect("there").path()).collect();
    files.sort();
    let mut broken = Vec::new();
    for file in &files {
        let bytes = fs::read(file).expect("reads");
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            broken.push(file.file_name().expect("a name").to_owned());
        }
    }
    assert!(broken.is_empty(), "what the target {name} says of {broken:?} stands above");
    files.len()
}

/// Unpacks the inputs that the fuzzer found.
fn unpacked(archive: &Path) -> TempDir {
    let dir = tempfile::tempdir().expect("a temp folder");
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status().expect("runs tar");
    assert!(tar.success(), "{}: {tar}", archive.display());
    dir
}

#[test]
fn every_corpus_input_passes_its_target() {
    for (name, target) in targets::ALL {
        let corpus = fuzz().join("corpus");
        let found = unpacked(&corpus.join(name).with_extension("tgz"));
        for (inputs, least) in [(corpus.join(name).as_path(), 3), (found.path(), 1)] {
            let files = run_corpus(name, target, inputs);
            assert!(files >= least, "the corpus of {name} has {files} files in {}: it proves nothing", inputs.display());
        }
    }
}

#[test]
fn failing_corpus_file_is_named() {
    let dir = tempfile::tempdir().expect("a temp folder");
    fs::write(dir.path().join("good"), "good").expect("writes");
    fs::write(dir.path().join("bad"), "bad").expect("writes");
    let only_good: targets::Target = |bytes| assert_eq!(bytes, b"good", "this is the test's own");
    let said = catch_unwind(|| run_corpus("x", only_good, dir.path())).expect_err("one file is bad");
    let said = said.downcast_ref::<String>().expect("a sentence");
    assert!(said.contains("\"bad\"") && !said.contains("good"), "{said}");
}

#[test]
fn each_target_has_corpus_wrapper_and_binary() {
    let targets: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), targets, "folders in corpus/ and targets");
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets, "files in fuzz_targets/ and targets");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzzer's manifest");
    let (_, bins) = manifest.split_once("[[bin]]").expect("a target");
    let bins: BTreeSet<String> =
        bins.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).map(str::to_owned).collect();
    assert_eq!(bins, targets, "binaries in tests/fuzz/Cargo.toml and targets");
    for (name, _) in targets::ALL {
        let glue = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("there");
        assert!(glue.contains(&format!("targets::{name}::run(bytes)")), "fuzz_targets/{name}.rs runs another target");
    }
}
