//! The history beside the log: filtered by the server, navigated by addresses, and loaded a page at a time.

use rusqlite::Connection;
use serde_json::json;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::{RECORD, button, click_on, open_at, texts, until_page};

/// The number of runs in a page of the history, as the page requests them.
const PAGE: usize = 50;

/// Adds runs that ended long ago, a minute apart. Every tenth has exit code 3. The server must not be running.
fn add_runs(place: &Place, count: i64) {
    drop(place.store());
    let mut database = Connection::open(place.database()).expect("opens");
    let tx = database.transaction().expect("begins");
    tx.execute(
        "WITH RECURSIVE ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < ?1),
             runs AS (SELECT id, id % 10 = 0 AS failed, unixepoch('2023-11-14') + 60 * id AS at FROM ids)
         INSERT INTO pipeline_runs (id, status, pid, script, cwd, args, created_at, started_at, stopped_at, exit_code, log_start, log_end)
         SELECT id, iif(failed, 'failed', 'completed'), 1, iif(id % 7 = 0, 'seventh.sh', 'exit.sh'), '/', json_array('n' || id),
             strftime('%Y-%m-%dT%H:%M:%S.000Z', at, 'unixepoch'), strftime('%Y-%m-%dT%H:%M:%S.000Z', at, 'unixepoch'),
             strftime('%Y-%m-%dT%H:%M:%S.000Z', at + 10, 'unixepoch'), iif(failed, 3, 0), 0, 0
         FROM runs",
        [count],
    )
    .expect("inserts");
    tx.execute("UPDATE pipeline_state SET run_id = ?1", [count]).expect("updates");
    tx.commit().expect("commits");
}

/// Starts a server with this many runs, and a browser that shows nothing yet.
fn set_up(count: i64) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1000000");
    add_runs(&place, count);
    place.start_server();
    browser.before_each_page(RECORD);
    Some((browser, place))
}

/// Returns the runs that the rail lists.
fn listed(browser: &Browser) -> Vec<i64> {
    let ids =
        browser.script("return [...document.querySelectorAll('#runs .r')].map((it) => Number(/runs\\/(\\d+)/.exec(it.href)[1]))");
    serde_json::from_value(ids).expect("ids")
}

fn wait_for_runs(browser: &Browser, ids: &[i64]) {
    wait_until(&format!("the rail lists {} runs from {:?}", ids.len(), ids.first()), PATIENCE, || listed(browser) == ids);
}

/// Returns the requests for pages of the history.
fn asked(browser: &Browser) -> Vec<String> {
    let paths = browser.script("return window.asked.filter((path) => path.startsWith('api/runs?'))");
    serde_json::from_value(paths).expect("paths")
}

fn first(count: usize, ids: impl Iterator<Item = i64>) -> Vec<i64> {
    ids.take(count).collect()
}

#[test]
fn server_filters_the_rail_and_the_filter_survives_navigation() {
    let Some((browser, place)) = set_up(1234) else { return };
    open_at(&browser, &place, "");
    wait_for_runs(&browser, &first(PAGE, (1..=1234).rev()));
    assert_eq!((browser.text("failed-count"), browser.text("run-name")), ("123".to_owned(), "Run 1234".to_owned()));

    browser.click("failed-runs");
    let failed = first(PAGE, (1..=1234).rev().filter(|id| id % 10 == 0));
    wait_for_runs(&browser, &failed);
    assert_eq!(browser.script("return document.getElementById('failed-runs').getAttribute('aria-pressed')"), "true");
    // A run in the filtered list has an address. After going back, the rail is unchanged.
    click_on(&browser, "document.querySelector('#runs .r[href*=\"runs/1220\"]')");
    until_page(&browser, "location.hash === '#/runs/1220' && document.getElementById('run-name').textContent === 'Run 1220'");
    assert_eq!(browser.script("return document.querySelector('#runs [aria-current]').href.split('#')[1]"), "/runs/1220");
    browser.script("history.back()");
    until_page(&browser, "location.hash === '' && document.getElementById('run-name').textContent === 'Run 1234'");
    assert_eq!(listed(&browser), failed);

    browser.click("filter");
    browser.type_into("find-runs", "SEVENTH");
    wait_for_runs(&browser, &first(PAGE, (1..=1234).rev().filter(|id| id % 70 == 0)));
    browser.click("all-runs");
    wait_for_runs(&browser, &first(PAGE, (1..=1234).rev().filter(|id| id % 7 == 0)));
    // An argument that no run has.
    browser.type_into("find-runs", "n4321");
    wait_until("none is found", PATIENCE, || browser.text("runs") == "No run matches.");
    browser.type_into("find-runs", "n43");
    wait_for_runs(&browser, &first(11, (43..=439).rev().filter(|id| *id == 43 || id / 10 == 43)));
    // Closing the field shows all runs again.
    browser.click("filter");
    wait_for_runs(&browser, &first(PAGE, (1..=1234).rev()));
    assert!(!browser.shows("find-runs"));
}

#[test]
fn rail_is_filtered_by_each_outcome() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1000000");
    add_runs(&place, 1000);
    // Of the successful runs, some become stopped, killed, lost, or not started.
    for (id, ending) in [
        (101, "'stopped', signal = 15"),
        (202, "'stopped', signal = 9"),
        (303, "'failed', signal = 9"),
        (505, "'lost', error = 'its shim is gone'"),
    ] {
        place.edit_database(&format!("UPDATE pipeline_runs SET exit_code = NULL, status = {ending} WHERE id = {id}"));
    }
    place.edit_database(
        "UPDATE pipeline_runs SET exit_code = NULL, pid = NULL, started_at = NULL, status = 'failed', error = 'no' WHERE id = 404",
    );
    place.start_server();
    open_at(&browser, &place, "");
    wait_for_runs(&browser, &first(PAGE, (1..=1000).rev()));
    browser.click("filter");
    let pressed = || texts(&browser, "#rail [aria-pressed=true]").concat();
    let outcomes = texts(&browser, "#outcomes button");
    assert_eq!(outcomes, ["Succeeded", "Stopped", "Killed", "Couldn’t start", "Lost"]);
    for (words, ids) in [
        ("Stopped", vec![202, 101]),
        ("Lost", vec![505]),
        ("Couldn’t start", vec![404]),
        ("Succeeded", first(PAGE, (1..=1000).rev().filter(|id| id % 10 != 0 && ![505, 404, 303, 202, 101].contains(id)))),
    ] {
        click_on(&browser, &button("#outcomes", words));
        wait_for_runs(&browser, &ids);
        assert_eq!(pressed(), words);
    }
    // With a text, and without filter and text after the field is closed.
    browser.type_into("find-runs", "n99");
    wait_for_runs(&browser, &first(PAGE, [999, 998, 997, 996, 995, 994, 993, 992, 991, 99].into_iter()));
    browser.click("filter");
    wait_for_runs(&browser, &first(PAGE, (1..=1000).rev()));
    assert_eq!(pressed(), "All");

    // The narrowest phone shows all buttons, each large enough for a finger.
    browser.be_a_screen(320, 640, true);
    browser.script("location.hash = '#/?tab=runs'");
    browser.click("filter");
    until_page(&browser, "document.getElementById('outcomes').checkVisibility()");
    let sizes = browser.script(
        "return [...document.querySelectorAll('.filters button')].map((it) => it.getBoundingClientRect())
           .filter((it) => it.left < 0 || it.right > 320 || it.height < 44).length",
    );
    assert_eq!(sizes, 0);
}

#[test]
fn run_address_survives_a_reload() {
    let Some((browser, place)) = set_up(35) else { return };
    open_at(&browser, &place, "#/runs/20?tab=details");
    let shows = |id: i64| {
        wait_until(&format!("run {id} is shown"), PATIENCE, || {
            browser.text("run-name") == format!("Run {id}") && browser.text("pane-details").contains(&format!("exit.sh n{id}"))
        });
    };
    shows(20);
    assert!(browser.text("pane-details").contains("code 3") && browser.shows("elsewhere"));
    assert!(browser.text("elsewhere").starts_with("This is run 20. The latest, run 35: "), "{}", browser.text("elsewhere"));

    // The strip contains the last 30 runs, the latest at its end, and each of its bars leads to its run.
    let strip = browser.script("return [...document.querySelectorAll('#strip a')].map((it) => it.title.split(' · ')[0])");
    assert_eq!(strip, json!((6..=35).map(|id| format!("Run {id}")).collect::<Vec<_>>()));
    click_on(&browser, "document.querySelectorAll('#strip a')[3]");
    until_page(&browser, "location.hash === '#/runs/9'");
    browser.script("location.hash = '#/runs/9?tab=details'");
    shows(9);
    browser.script("location.reload()");
    until_page(&browser, "performance.getEntriesByType('navigation')[0].type === 'reload'");
    shows(9);
    // Without a run in its address, the page shows the latest one.
    click_on(&browser, "document.querySelector('#elsewhere a')");
    wait_until("the latest run is shown", PATIENCE, || browser.text("run-name") == "Run 35" && !browser.shows("elsewhere"));
    browser.script("history.back()");
    shows(9);
    // For a run that never existed, the page shows an error and goes to the latest run.
    browser.script("location.hash = '#/runs/36'");
    wait_until("it is told", PATIENCE, || browser.text("error").contains("That run is no longer in the history."));
    wait_until("the latest run is shown", PATIENCE, || browser.text("run-name") == "Run 35");
}

#[test]
fn run_name_links_to_the_permanent_address() {
    let Some((browser, place)) = set_up(35) else { return };
    browser.be_a_screen(1280, 800, false);
    open_at(&browser, &place, "#/?tab=details");
    wait_until("the latest run is shown", PATIENCE, || browser.text("run-name") == "Run 35" && browser.shows("pane-details"));
    click_on(&browser, "document.querySelector('#run-name a')");
    until_page(&browser, "location.hash === '#/runs/35?tab=details'");
    assert!(!browser.shows("elsewhere"));
    // After going back, the page follows the latest run.
    browser.script("history.back()");
    until_page(&browser, "location.hash === '#/?tab=details'");
    assert_eq!(browser.text("run-name"), "Run 35");
}

#[test]
fn rail_over_the_log_is_toggled_by_one_button() {
    let Some((browser, place)) = set_up(35) else { return };
    open_at(&browser, &place, "");
    browser.be_a_screen(900, 700, false);
    wait_until("the run is shown", PATIENCE, || browser.text("run-name") == "Run 35");
    assert!(!browser.shows("rail"));
    click_on(&browser, "document.getElementById('fold')");
    wait_until("the rail is open", PATIENCE, || browser.shows("rail"));
    click_on(&browser, "document.getElementById('fold')");
    wait_until("the rail is closed", PATIENCE, || !browser.shows("rail"));
}

#[test]
fn long_history_is_read_a_page_at_a_time() {
    const RUNS: i64 = 100_000;
    let Some((browser, place)) = set_up(RUNS) else { return };
    open_at(&browser, &place, "");
    wait_for_runs(&browser, &first(PAGE, (1..=RUNS).rev()));
    wait_until("they are counted", PATIENCE, || browser.text("failed-count") == "10,000");
    let elements = || browser.script("return document.getElementById('runs').querySelectorAll('*').length").as_u64();
    let of_a_row = 12;
    for pages in 2..=8 {
        browser.script("const it = document.getElementById('runs'); it.scrollTop = it.scrollHeight");
        wait_for_runs(&browser, &first(PAGE * pages, (1..=RUNS).rev()));
        let asked = asked(&browser);
        assert_eq!(asked.len(), pages, "one request a page: {asked:?}");
        let most = (PAGE * pages + 1) * of_a_row;
        assert!(elements() <= Some(most as u64), "{:?} elements for {pages} pages", elements());
    }
    // The scroll position stays while runs are added at the other end.
    let place_of = || browser.script("return document.getElementById('runs').scrollTop").as_f64().expect("a number");
    let before = place_of();
    assert!(before > 1000.0);
    place.start_with(json!({"script": "exit.sh"}));
    wait_for_runs(&browser, &first(PAGE * 8 + 1, (1..=RUNS + 1).rev()));
    assert!(place_of() >= before, "{} before, {} now", before, place_of());

    // The search finds an old run by an argument that only it has, and the rail then contains only that run.
    browser.click("filter");
    browser.type_into("find-runs", "n77777");
    wait_for_runs(&browser, &[77_777]);
    click_on(&browser, "document.querySelector('#runs .r')");
    wait_until("it is shown", PATIENCE, || browser.text("run-name") == "Run 77777");
    assert!(elements() < Some(20));
}
