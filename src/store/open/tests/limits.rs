//! Tests of schemas, histories and statistics that would take forever, or gigabytes, to read: they are refused with little work.

use super::trees::{PAGE, ended, multiply, number, pages_above, store};
use super::*;

const HISTORY: &str = "CREATE TABLE refinery_schema_history( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))";

/// Asserts that the file is refused as damaged for this reason, in every way.
fn is_refused_because(folder: TempDir, why: &'static str, what: &str) {
    let error = ended(what, move || refused(&folder));
    assert!(matches!(&error.kind, StoreErrorKind::Damaged(reason) if reason.contains(why)), "{what}: {error}");
}

/// The size of the file's header, which precedes the first page's own header:
/// <https://www.sqlite.org/fileformat2.html#b_tree_pages>.
const HEADER: usize = 100;

/// Adds pages above the leaf that begins the schema's tree. Each refers to the page below as often as it has room. The rows in
/// the leaf from `first` on are repeated, and the others occur once.
fn repeat_schema(path: &Path, first: usize) {
    let mut bytes = fs::read(path).expect("our own file");
    let page = bytes[..PAGE].to_vec();
    assert_eq!(page[HEADER], 0x0d, "the schema has one page");
    let count = number(&page, HEADER + 3);
    let leaf_of = |rows: std::ops::Range<usize>| {
        let mut leaf = page.clone();
        leaf[..8].copy_from_slice(&page[HEADER..HEADER + 8]);
        leaf[3..5].copy_from_slice(&u16::try_from(rows.len()).expect("few").to_be_bytes());
        for (at, row) in rows.enumerate() {
            leaf[8 + 2 * at..10 + 2 * at].copy_from_slice(&page[HEADER + 8 + 2 * row..][..2]);
        }
        leaf
    };
    let once = (first > 0).then(|| {
        bytes.extend(leaf_of(0..first));
        u32::try_from(bytes.len() / PAGE).expect("few pages")
    });
    bytes.extend(leaf_of(first..count));
    let mut top = pages_above(&mut bytes, &[1], true, HEADER);
    if let Some(once) = once {
        let cell = number(&top, HEADER + 12);
        top[cell..cell + 4].copy_from_slice(&once.to_be_bytes());
    }
    bytes[HEADER..PAGE].copy_from_slice(&top[HEADER..]);
    store(path, bytes);
}

#[test]
fn database_with_an_endless_schema_is_refused() {
    for (sql, first) in [
        // Each row after the first is an error to SQLite, but it continues to read.
        (HISTORY, 0),
        // The row of the index of a primary key may be repeated any number of times.
        (HISTORY, 1),
        ("CREATE TABLE recipes (name PRIMARY KEY)", 1),
    ] {
        let folder = made_by(sql);
        repeat_schema(&folder.path().join(NAME), first);
        is_refused_because(folder, "takes too many steps", sql);
    }
}

#[test]
fn database_with_thousands_of_objects_is_refused_and_one_with_a_hundred_is_not() {
    let table = |number: u32| format!("CREATE TABLE t{number} (a REFERENCES t0 (a))");
    let tables = |count| (0..count).map(table).collect::<Vec<_>>().join(";");
    is_refused_because(changed(&tables(5000)), "takes too many steps", "5000 tables");
    let folder = changed(&tables(100));
    Store::open(&folder.path().join(NAME)).expect("tables of others are ignored");
}

/// Each line would take a megabyte, in the same pages.
#[test]
fn database_whose_history_lines_share_their_pages_is_refused() {
    let folder = made_by(&format!("{HISTORY}; INSERT INTO {HISTORY_TABLE} VALUES (1, hex(zeroblob(500000)), '', '')"));
    multiply(&folder.path().join(NAME), HISTORY_TABLE);
    is_refused_because(folder, "a row of more than 16384 bytes", "history");
}

#[test]
fn database_with_a_long_text_in_its_schema_is_refused() {
    for object in ["CREATE VIEW long AS SELECT", "CREATE TABLE long (a DEFAULT"] {
        let end = if object.contains('(') { ")" } else { "" };
        let folder = changed(&format!("{object} '{}'{end}", "x".repeat(20_000)));
        is_refused_because(folder, "a row of more than 16384 bytes", object);
    }
}

/// The statistics that the `sqlite3` shell creates. The library in this program does not create the second table.
const STATISTICS: &str = "ANALYZE; CREATE TABLE stat4(tbl,idx,neq,nlt,ndlt,sample); INSERT INTO stat4 VALUES (1, 2, 3, 4, 5, 6);
    PRAGMA writable_schema = 1;
    UPDATE sqlite_schema SET name = 'sqlite_stat4', tbl_name = 'sqlite_stat4', sql = replace(sql, 'stat4', 'sqlite_stat4') WHERE name = 'stat4'";

#[test]
fn database_with_endless_statistics_or_highest_ids_is_refused() {
    for table in ["sqlite_stat1", "sqlite_stat4", "sqlite_sequence"] {
        let folder = changed(STATISTICS);
        multiply(&folder.path().join(NAME), table);
        is_refused_because(folder, "takes too many steps", table);
    }
    for long in ["UPDATE sqlite_stat1 SET stat", "UPDATE sqlite_sequence SET seq"] {
        let folder = changed(&format!("{STATISTICS}; {long} = zeroblob(20000)"));
        is_refused_because(folder, "a row of more than 16384 bytes", long);
    }
    Store::open(&changed(STATISTICS).path().join(NAME)).expect("statistics are harmless");
}

/// `SQLite` evaluates columns of the statistics whenever it reads the schema.
#[test]
fn database_with_computed_statistics_is_refused() {
    let with_statistics = |columns: &str| {
        changed(&format!(
            "ANALYZE; PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1({columns})' WHERE name = 'sqlite_stat1'"
        ))
    };
    for columns in ["tbl,idx AS (1),stat", "tbl,idx,stat CHECK (length(hex(zeroblob(9000000))) > 0)", "tbl,idx,stat,more"] {
        is_refused_because(with_statistics(columns), "table sqlite_stat1 is not ours", columns);
    }
    // A million evaluations of the first column.
    let doubled: Vec<String> = (1..20).map(|number| format!("c{number} AS (c{0} + c{0})", number - 1)).collect();
    let columns = format!("tbl,c0 AS (1),{},idx AS (c19 + c19),stat", doubled.join(","));
    is_refused_because(with_statistics(&columns), "takes too much memory", "doubled");
}
