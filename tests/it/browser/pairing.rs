//! *Pair a phone…* in a real browser: the page shows the link and its QR code, and the link logs in another browser, once.
//!
//! The same browser stands for the phone, by another host name of this machine: it shares neither cookies nor storage with the
//! first one.

use qrcodegen::{QrCode, QrCodeEcc};
use serde_json::json;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

const TOKEN: &str = "test-token-of-a-dialog-7Q/+&";
const ESCAPE: &str = "\u{e00c}";
/// Presses a button of the first visit or of the dialog, chosen by its text.
const PRESS: &str = "const press = (words) => [...document.querySelectorAll('#first button, #pairing button')].find((it) => it.textContent === words).click();";

fn serve() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_ALLOW_HOST", "board.test,phone.test");
    place.use_token(TOKEN);
    place.start_server();
    place
}

/// Logs in with a code at this host name, and waits for the page.
fn open(browser: &Browser, place: &Place, name: &str, code: &str) {
    browser.open("about:blank");
    browser.open(&format!("http://{name}:{}/#code={code}", place.port()));
    wait_until("the page has the state", PATIENCE, || browser.state() == "stopped" && !browser.shows("login"));
}

fn code(place: &Place) -> String {
    place.post("/api/pair", json!({})).ok()["code"].as_str().expect("text").to_owned()
}

fn said(browser: &Browser) -> String {
    browser
        .script("return document.querySelector('#pairing [role=status]')?.textContent ?? ''")
        .as_str()
        .expect("text")
        .to_owned()
}

/// Waits until the dialog shows a link, and returns it.
fn link(browser: &Browser) -> String {
    let text = || {
        browser.script("const it = document.querySelector('#pairing .qr'); return it?.checkVisibility() ? it.querySelector('code').textContent : ''")
    };
    wait_until("the dialog shows a link", PATIENCE, || text() != "");
    text().as_str().expect("text").to_owned()
}

/// Asserts that the picture has the modules of the link, dark on light, a light border of four modules, and a sufficient size.
fn assert_shows_code_of(browser: &Browser, link: &str) {
    let code = QrCode::encode_text(link, QrCodeEcc::Low).expect("it fits");
    let size = code.size();
    let seen = browser.script(
        "const svg = document.querySelector('#pairing .qr > svg'), path = svg.firstChild, box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
         const dark = [], spot = svg.createSVGPoint();
         for (let y = view.y; y < view.y + view.height; y++) for (let x = view.x; x < view.x + view.width; x++) {
           [spot.x, spot.y] = [x + .5, y + .5];
           dark.push(path.isPointInFill(spot));
         }
         return [[view.x, view.y, view.width, view.height], dark, [box.width, box.height], getComputedStyle(svg).backgroundColor, getComputedStyle(path).fill]",
    );
    assert_eq!(seen[0], json!([-4, -4, size + 8, size + 8]));
    let dark: Vec<bool> = serde_json::from_value(seen[1].clone()).expect("modules");
    let whole = (-4..size + 4).flat_map(|y| (-4..size + 4).map(move |x| (x, y)));
    assert!(whole.zip(dark).all(|((x, y), is_dark)| code.get_module(x, y) == is_dark), "{link}");
    let sides: [f64; 2] = serde_json::from_value(seen[2].clone()).expect("a box");
    assert!(sides.iter().all(|side| *side >= 200.0) && (sides[0] - sides[1]).abs() < 1.0, "{sides:?}");
    assert_eq!([&seen[3], &seen[4]], ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]);
}

#[test]
fn pairing_link_and_qr_code_log_in_another_browser_once() {
    let names = "--host-resolver-rules=MAP board.test 127.0.0.1, MAP phone.test 127.0.0.1";
    let Some(browser) = Browser::fresh_with(&[names]) else { return };
    let place = serve();
    browser.be_a_phone(320, 640);
    open(&browser, &place, "board.test", &code(&place));
    let its_page = browser.window();
    for scheme in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", scheme);
        browser.click("more");
        browser.click("pair");
        let link = link(&browser);
        assert!(link.starts_with(&format!("http://board.test:{}/#code=", place.port())), "{link}");
        assert_shows_code_of(&browser, &link);
        assert_eq!(browser.script("return document.documentElement.scrollWidth <= innerWidth"), true);
        let width = "const it = document.getElementById('pairing'), box = it.getBoundingClientRect(); return it.scrollWidth <= it.clientWidth && box.left >= 0 && box.right <= 320";
        assert_eq!(browser.script(width), true, "it fits");
        wait_until("the time that is left is shown", PATIENCE, || {
            browser.script(
                "return /^Works once, within 9 min \\d+ s\\.$/.test(document.querySelector('#pairing .qr p').textContent)",
            ) == true
        });
        browser.press(ESCAPE);
        wait_until("it is closed, and the link is not on the page", PATIENCE, || {
            browser.script("return !document.getElementById('pairing') && !document.documentElement.outerHTML.includes('#code=')")
                == true
        });
        assert_eq!(browser.script("return document.activeElement.id"), "more", "the focus is back");
    }
    // A read-only link, made on the page of the first visit.
    browser.script(&format!("{PRESS} press('Pair a phone…')"));
    let to_act = link(&browser);
    browser.script(
        "const it = document.querySelector('#pairing select'); it.selectedIndex = 1; it.dispatchEvent(new Event('change'))",
    );
    wait_until("another link is shown", PATIENCE, || link(&browser) != to_act);
    let shown = link(&browser);
    assert_shows_code_of(&browser, &shown);
    browser.open_window();
    let code_of = |link: &str| link.split_once("#code=").expect("a code").1.to_owned();
    open(&browser, &place, "phone.test", &code_of(&shown));
    wait_until("the phone may look", PATIENCE, || browser.text("may") == "Read-only access");
    assert_eq!(browser.script("return document.getElementById('pair').hidden"), true, "a viewer makes no link");
    // The same link again, in a browser that is not logged in.
    browser.script("localStorage.clear()");
    browser.forget_cookies();
    browser.open("about:blank");
    browser.open(&format!("http://phone.test:{}/#code={}", place.port(), code_of(&shown)));
    wait_until("it works once", PATIENCE, || browser.shows("login") && browser.text("login-error").contains("code"));
    browser.go_to_window(&its_page);
    assert_eq!(place.get("/api/sessions").ok()["codes"].as_array().map(Vec::len), Some(5));
}

#[test]
fn pairing_dialog_reports_used_and_expired_links() {
    let Some(browser) = Browser::fresh_with(&["--host-resolver-rules=MAP board.test 127.0.0.1"]) else { return };
    let place = serve();
    open(&browser, &place, "board.test", &code(&place));
    let pair = || {
        browser.script(&format!("document.getElementById('pairing')?.close(); {PRESS} press('Pair a phone…')"));
        link(&browser)
    };
    let shown = pair();
    place.post("/api/login", json!({ "code": shown.split_once("#code=").expect("a code").1 })).ok();
    wait_until("it says that the link was used", PATIENCE, || said(&browser) == "The link was used: a browser has logged in.");
    assert_eq!(browser.script("return document.querySelector('#pairing .qr').checkVisibility()"), false);
    // The server keeps a limited number of codes, so these replace the code of the dialog.
    pair();
    for _ in 0..8 {
        code(&place);
    }
    wait_until("it says that the link is over", PATIENCE, || said(&browser) == "The link has expired.");
}

#[test]
fn pairing_dialog_explains_how_to_listen_on_the_network() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.start_server();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    browser.click_in_menu("pair");
    wait_until("it says so", PATIENCE, || {
        said(&browser).contains("this machine only") && said(&browser).contains("AUTOAPPDEV_HOST=0.0.0.0")
    });
    assert_eq!(browser.script("return document.querySelector('#pairing .qr').checkVisibility()"), false);
}

#[test]
fn dialogs_align_their_last_button_at_the_end() {
    let Some(browser) = Browser::start() else { return };
    let place = serve();
    browser.be_a_screen(1280, 800, false);
    open(&browser, &place, "127.0.0.1", &code(&place));
    let off = |id: &str| {
        browser.script(&format!(
            "const it = document.getElementById('{id}'), end = it.getBoundingClientRect().right - parseFloat(getComputedStyle(it).paddingRight);
             return [...it.querySelectorAll('button')].at(-1).textContent + Math.round(end - [...it.querySelectorAll('button')].at(-1).getBoundingClientRect().right)"
        ))
    };
    browser.click_in_menu("pair");
    wait_until("the dialog is there", PATIENCE, || browser.shows("pairing"));
    // The border takes one pixel.
    assert_eq!(off("pairing"), "Close1");
    browser.press(ESCAPE);
    wait_until("it is closed", PATIENCE, || browser.script("return !document.getElementById('pairing')") == true);
    browser.press("?");
    wait_until("the help is there", PATIENCE, || browser.shows("help"));
    assert_eq!(off("help"), "Close1");
    browser.press(ESCAPE);
}
