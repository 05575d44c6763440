//! The reader of a run's journal.

use std::fs;
use std::path::Path;

use autoappdev::run_dir::{Journal, JournalError, ReadJournal, read_header, read_journal};

use super::scratch::in_empty_folder;

/// How many cuts of a journal are tried.
const CUTS: usize = 12;

pub fn run(bytes: &[u8]) {
    in_empty_folder(|folder| {
        let path = folder.join("journal.jsonl");
        let read = read(&path, bytes);
        let header = read_header(&path);
        match &read {
            Ok(read) => {
                assert_eq!(header.as_ref().ok(), Some(&read.header), "the header alone says something else");
                let lines = bytes.split(|byte| *byte == b'\n').count() - 1;
                assert_eq!(read.entries.len() + read.damaged_lines + 1, lines, "a line was neither taken nor counted");
                assert!(read.entries.windows(2).all(|pair| pair[0].seq < pair[1].seq), "numbers do not grow");
                written_again(folder, read);
            }
            Err(why) => {
                let header = header.expect_err("the header alone is taken, and the journal is not");
                assert_eq!(std::mem::discriminant(why), std::mem::discriminant(&header), "{why}; the header alone: {header}");
            }
        }
        // A journal that is torn anywhere reads as its own beginning.
        for n in 0..CUTS {
            let cut = bytes.len() * n / CUTS;
            match (self::read(&path, &bytes[..cut]), &read) {
                (Ok(early), Ok(whole)) => {
                    assert_eq!(early.header, whole.header);
                    assert!(whole.entries.starts_with(&early.entries) && early.damaged_lines <= whole.damaged_lines);
                }
                (Err(JournalError::Absent), _) | (Err(_), Err(_)) => {}
                (early, whole) => panic!("cut at {cut} it reads as {early:?}, whole as {whole:?}"),
            }
        }
    });
}

fn read(path: &Path, bytes: &[u8]) -> Result<ReadJournal, JournalError> {
    fs::write(path, bytes).expect("writes");
    read_journal(path)
}

/// Checks that the reader reads what the writer writes.
fn written_again(folder: &Path, read: &ReadJournal) {
    let path = folder.join("again.jsonl");
    let mut journal = Journal::create(&path, &read.header).expect("creates");
    for entry in &read.entries {
        journal.append(entry, false).expect("writes");
    }
    assert_eq!(read_journal(&path).expect("reads"), ReadJournal { damaged_lines: 0, ..read.clone() });
    fs::remove_file(&path).expect("removes");
}
