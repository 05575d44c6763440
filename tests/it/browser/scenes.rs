//! Each state of the page as a scene: a real server, a real run, a real browser. axe-core checks the scenes, and
//! `make screenshots DIR=<folder>` takes pictures of them for people.

mod rare;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Place, not_run, signal};
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// A training run: steps, progress, colours, an error that it survives. `$1` selects its end: `fail`, `well`, or anything else to
/// keep running.
const TRAIN: &str = r#"#!/bin/bash
echo "::step prepare"
echo "::step load data"
for n in {01..30}; do echo "shard-$n loaded, 214 MB"; done
echo "2026-11-29 08:24:55 INFO train: 4 workers, seed 1701, mixed precision bf16" >&2
echo "::step fine-tune"
for n in {1..17}; do
  echo "::progress $((n * 100 / 40)) Epoch $n/40 · loss 0.$((900 - n * 33))"
  echo "Epoch $n: 100%|████████████████| 60/60 [02:29<00:00, 2.48s/it, loss=0.$((473 - n))]" >&2
  printf '\e[36mepoch\e[0m %s  \e[36mtrain\e[0m 0.%s  \e[36mval\e[0m 0.484  \e[36mlr\e[0m 3.7e-4\n' "$n" $((473 - n))
  [ "$n" != 12 ] || printf 'Traceback (most recent call last):\n  File "loader.py", line 132, in fetch\n    img = Image.open(path)\nOSError: image file is truncated\n' >&2
done
case $1 in
  fail)
    printf 'Traceback (most recent call last):\n  File "train.py", line 214, in <module>\n    main(args)\ntorch.OutOfMemoryError: CUDA out of memory. See https://pytorch.org/docs/oom.html\n' >&2
    exit 1 ;;
  well) echo "::progress 100 Saved checkpoints/epoch-40.pt"; exit 0 ;;
  crash) kill -SEGV $$ ;;
  # As the kernel does it where memory is short; see the scene.
  oom) echo "oom_kill 6" > "$MEMORY_EVENTS"; kill -KILL $$ ;;
  talk) while [ ! -e over ]; do seq -f 'batch %.0f of 640, 2.4 s each' 1 640; sleep 0.05; done; exit 1 ;;
  stubborn) trap '' TERM ;;
esac
printf '\rEpoch 17:  62%%|██████████      | 37/60 [01:32<00:57, 2.49s/it, loss=0.331]' >&2
while :; do sleep 0.2; done
"#;

const BUILD: &str = "#!/bin/bash\necho '::step compile'; for n in {1..40}; do echo \"cc -O2 -c file$n.c\"; done\n\
                     echo '::step link'; echo 'linked dist/board-1.8.0.tar.zst, 14.2 MB'; exit ${1:-0}\n";

/// A view of the page: its address after `/`, an action on it, and the condition that must hold before it is examined.
struct Scene {
    name: &'static str,
    address: &'static str,
    /// Prepares the pipeline, before the page is opened.
    before: fn(&Place),
    /// Acts on the page.
    act: fn(&Browser, &Place),
    /// A condition in the page's script.
    until: &'static str,
}

const HAS_STATE: &str = "document.body.dataset.state !== 'unknown'";

fn nothing(_: &Place) {}
fn stay(_: &Browser, _: &Place) {}

fn run(place: &Place, body: Value) {
    stop(place);
    place.start_with(body);
}

fn run_to_end(place: &Place, body: Value) {
    run(place, body);
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
}

fn stop(place: &Place) {
    if place.pipeline()["state"] != "stopped" {
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    }
}

fn train(place: &Place) {
    run(
        place,
        json!({"script": "train.py", "args": ["--epochs", "40"], "env": {"OMP_NUM_THREADS": "4", "WANDB_API_KEY": "hidden"}}),
    );
    wait_until("the run has told its progress", PATIENCE, || place.pipeline()["progress"]["percent"] == 42);
}

fn fail(place: &Place) {
    run_to_end(place, json!({"script": "train.py", "args": ["fail"]}));
}

fn pause(place: &Place) {
    train(place);
    place.act("pause").ok();
}

fn kill(place: &Place) {
    train(place);
    signal(u32::try_from(place.pipeline()["pid"].as_u64().expect("alive")).expect("a pid"), "KILL");
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
}

/// A signal from outside the server stops the processes.
fn stop_from_outside(place: &Place) {
    train(place);
    signal(u32::try_from(place.pipeline()["pid"].as_u64().expect("alive")).expect("a pid"), "STOP");
    wait_until("the server has seen it", PATIENCE, || place.pipeline()["state"] == "paused");
}

/// Kills the shim, which is the only process that could observe the run's end.
fn lose(place: &Place) {
    train(place);
    signal(place.shim_pid(place.pipeline()["run_id"].as_i64().expect("a run")), "KILL");
    wait_until("the run is lost", PATIENCE, || place.pipeline()["status"] == "lost");
}

fn refuse_to_stop(place: &Place) {
    run(place, json!({"script": "train.py", "args": ["stubborn"], "grace_s": 600}));
    wait_until("the run has told its progress", PATIENCE, || place.pipeline()["progress"]["percent"] == 42);
}

/// The scenes after the first run, in the order in which they are played. Each continues from the one before it.
const SCENES: &[Scene] = &[
    Scene { name: "running", address: "", before: train, act: stay, until: "document.querySelector('#log .row')" },
    Scene {
        name: "steps",
        address: "#/?tab=steps",
        before: nothing,
        act: stay,
        until: "document.getElementById('pane-steps').textContent.includes('fine-tune')",
    },
    Scene {
        name: "usage",
        address: "#/?tab=usage",
        before: nothing,
        act: stay,
        until: "document.querySelector('#pane-usage .chart')?.checkVisibility()",
    },
    Scene {
        name: "details",
        address: "#/?tab=details",
        before: nothing,
        act: stay,
        until: "document.getElementById('pane-details').textContent.includes('WANDB_API_KEY')",
    },
    Scene {
        name: "runs",
        address: "#/?tab=runs",
        before: nothing,
        act: stay,
        until: "document.querySelectorAll('#runs .r').length > 5",
    },
    Scene {
        name: "more",
        address: "#/?tab=more",
        before: nothing,
        act: stay,
        until: "document.querySelector('#pane-details .facts') && document.querySelector('#pane-usage').checkVisibility()",
    },
    Scene {
        name: "another-run",
        address: "#/runs/2",
        before: nothing,
        act: stay,
        until: "document.querySelector('#elsewhere a').checkVisibility()",
    },
    Scene { name: "search", address: "#/?find=loss", before: nothing, act: stay, until: "document.querySelector('#log mark')" },
    Scene {
        name: "stop-sheet",
        address: "",
        before: nothing,
        act: |browser, _| browser.click("stop"),
        until: "document.getElementById('sure').open && !document.getElementById('yes').disabled",
    },
    Scene {
        name: "menu",
        address: "",
        before: nothing,
        act: |browser, _| {
            browser.script("document.getElementById('menu').showPopover()");
        },
        until: "document.getElementById('menu').checkVisibility()",
    },
    Scene {
        name: "pairing",
        address: "",
        before: nothing,
        act: |browser, _| browser.click_in_menu("pair"),
        until: "document.querySelector('#pairing [role=status]')?.textContent.includes('AUTOAPPDEV_HOST')",
    },
    Scene {
        name: "help",
        address: "",
        before: nothing,
        act: |browser, _| browser.press("?"),
        until: "document.getElementById('help').open",
    },
    Scene {
        name: "paused",
        address: "",
        before: pause,
        act: stay,
        until: "document.getElementById('state').textContent === 'Paused'",
    },
    Scene {
        name: "paused-from-outside",
        address: "",
        before: stop_from_outside,
        act: stay,
        until: "document.getElementById('status').textContent.startsWith('from outside')",
    },
    Scene {
        name: "stopping",
        address: "",
        before: refuse_to_stop,
        act: |browser, place| {
            if place.pipeline()["pending"] != "stop" {
                browser.click_and_confirm("stop");
            }
        },
        until: "document.getElementById('stopping').checkVisibility()",
    },
    Scene {
        name: "killed",
        address: "",
        before: kill,
        act: stay,
        until: "document.getElementById('state').textContent === 'Killed'",
    },
    Scene {
        name: "lost",
        address: "",
        before: lose,
        act: stay,
        until: "document.querySelector('.card')?.checkVisibility() && document.getElementById('state').textContent === 'Lost'",
    },
    Scene {
        name: "stopped",
        address: "",
        before: |place| {
            train(place);
            place.act("stop").ok();
        },
        act: stay,
        until: "document.getElementById('state').textContent === 'Stopped'",
    },
    Scene {
        name: "failed",
        address: "",
        before: fail,
        act: stay,
        until: "document.querySelector('.card')?.checkVisibility() && document.getElementById('log').scrollTop < 2",
    },
    Scene {
        name: "crashed",
        address: "",
        before: |place| run_to_end(place, json!({"script": "train.py", "args": ["crash"]})),
        act: stay,
        until: "document.getElementById('status').textContent.startsWith('SIGSEGV')",
    },
    Scene {
        name: "not-started",
        address: "",
        before: |place| {
            place.post("/api/pipeline/start", json!({"script": "broken"}));
        },
        act: stay,
        until: "document.getElementById('state').textContent === 'Couldn’t start'",
    },
    Scene {
        name: "succeeded",
        address: "",
        before: |place| run_to_end(place, json!({"script": "build.sh", "args": []})),
        act: stay,
        until: "document.getElementById('state').textContent === 'Succeeded'",
    },
    Scene {
        name: "start-form",
        address: "#/?tab=runs",
        before: nothing,
        act: |browser, _| browser.click("choose"),
        until: "document.getElementById('form').open && document.getElementById('form').textContent.includes('tools/backup.sh')",
    },
    Scene {
        name: "failed-start",
        address: "",
        before: |place| fs::remove_file(place.root().join("build.sh")).expect("ours"),
        act: |browser, _| browser.click("start"),
        until: "document.getElementById('trouble').checkVisibility()",
    },
];

/// Starts a server without a history.
fn place() -> Place {
    let mut place = Place::new();
    furnish(&mut place);
    place.start_server();
    place
}

fn furnish(place: &mut Place) {
    // Only the scripts below are listed.
    for entry in fs::read_dir(place.root()).expect("ours") {
        let path = entry.expect("ours").path();
        if path.is_file() {
            fs::remove_file(path).expect("ours");
        }
    }
    place.script("train.py", TRAIN);
    place.script("build.sh", BUILD);
    // An ELF header alone: the kernel cannot execute it.
    place.script("broken", "\x7fELF");
    fs::create_dir(place.root().join("tools")).expect("ours");
    place.script("tools/backup.sh", "#!/bin/bash\necho ok\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "train.py");
    // A name of this machine, so that there is a link for a phone.
    place.set_env("AUTOAPPDEV_ALLOW_HOST", "board.localhost");
}

fn fill(place: &Place) {
    for (script, args) in [
        ("build.sh", &[][..]),
        ("train.py", &["well"]),
        ("build.sh", &["2"]),
        ("train.py", &["fail"]),
        ("build.sh", &[]),
        ("train.py", &["well"]),
    ] {
        run_to_end(place, json!({"script": script, "args": args}));
    }
}

/// The setting in which scenes are played: each in all of `looks`, and `look` is called with its name. `only` limits them to one
/// scene.
struct Stage<'a> {
    browser: &'a Browser,
    looks: &'a [Look],
    look: &'a mut dyn FnMut(&str),
    only: Option<String>,
}

impl Stage<'_> {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    fn open(&self, way: &Look, place: &Place, address: &str) {
        way.take(self.browser);
        self.browser.open("about:blank");
        self.browser.open(&format!("http://127.0.0.1:{}/{address}", place.port()));
    }

    fn until(&self, name: &str, condition: &str) {
        let holds = || self.browser.script(&format!("return !!({condition})")) == true;
        wait_until(&format!("{name}: {condition}"), PATIENCE, holds);
    }

    fn show(&mut self, place: &Place, name: &str, address: &str, act: &dyn Fn(), until: &str) {
        if !self.wants(name) {
            return;
        }
        for way in self.looks {
            self.open(way, place, address);
            self.until(name, HAS_STATE);
            act();
            // A button works only a moment after it has appeared.
            self.until(
                name,
                "document.querySelector('dialog[open]') || !document.querySelector('#controls button:not([hidden]):disabled')",
            );
            self.until(name, until);
            (self.look)(&format!("{name}-{}", way.name));
        }
    }

    /// Closes the page before its server ends, because the page would report a lost connection.
    fn close_page(&self) {
        self.browser.open("about:blank");
    }
}

/// Plays every scene in each of `looks`, and calls `look` with its name.
fn play(browser: &Browser, looks: &[Look], look: &mut dyn FnMut(&str)) {
    let only = std::env::var("AUTOAPPDEV_SCENE").ok().filter(|name| !name.is_empty());
    let mut stage = Stage { browser, looks, look, only };
    let place = place();
    stage.show(&place, "first", "", &|| {}, "document.getElementById('first').textContent.includes('tools/backup.sh')");
    fill(&place);
    for scene in SCENES {
        (scene.before)(&place);
        stage.show(&place, scene.name, scene.address, &|| (scene.act)(browser, &place), scene.until);
        if browser.script("return !!document.querySelector('dialog[open]')") == true {
            browser.script("document.querySelector('dialog[open]').close()");
        }
        if place.pipeline()["pending"] == "stop" {
            stop(&place);
        }
    }
    rare::of_a_later_version(&mut stage, &place);
    rare::without_memory(&mut stage);
    rare::on_a_full_disk(&mut stage);
    rare::without_a_server(&mut stage, place);
}

/// A window size and a colour scheme.
struct Look {
    name: &'static str,
    width: u32,
    height: u32,
    is_phone: bool,
    scheme: &'static str,
}

impl Look {
    fn take(&self, browser: &Browser) {
        browser.be_a_screen(self.width, self.height, self.is_phone);
        browser.prefer("prefers-color-scheme", self.scheme);
    }
}

const DESKTOP: Look = Look { name: "desktop-light", width: 1280, height: 800, is_phone: false, scheme: "light" };
const PHONE: Look = Look { name: "phone-light", width: 390, height: 844, is_phone: true, scheme: "light" };
const DESKTOP_DARK: Look = Look { name: "desktop-dark", scheme: "dark", ..DESKTOP };
const PHONE_DARK: Look = Look { name: "phone-dark", scheme: "dark", ..PHONE };

/// axe-core (<https://github.com/dequelabs/axe-core>) is not part of this repository: `.ci/run` downloads it.
#[test]
fn axe_finds_no_violation_in_any_scene() {
    let Some(path) = std::env::var_os("AUTOAPPDEV_AXE").map(PathBuf::from).filter(|path| path.exists()) else {
        not_run("AUTOAPPDEV_AXE names no file axe.min.js; to get one: npm pack axe-core", "AUTOAPPDEV_REQUIRE_AXE");
        return;
    };
    let axe = fs::read_to_string(path).expect("a script");
    let Some(browser) = Browser::start() else { return };
    let mut found_in_all = Vec::new();
    play(&browser, &[DESKTOP, PHONE_DARK], &mut |name| {
        browser.script(&format!("{axe}; window.axe = axe"));
        let found = browser.script(
            "return axe.run().then(({ violations }) => violations.map(({ id, nodes }) => `${id}: ${nodes.map((it) => `${it.html} ${it.failureSummary}`).join(' | ')}`))",
        );
        if found != json!([]) {
            found_in_all.push(format!("{name}: {found}"));
        }
        // The browser reports the status of a refused action in the console.
        let console: Vec<String> =
            browser.console().into_iter().filter(|line| !line.contains("Failed to load resource")).collect();
        assert_eq!(console, Vec::<String>::new(), "{name}");
    });
    assert!(found_in_all.is_empty(), "{}", found_in_all.join("\n"));
}

/// Saves a picture of each scene in the folder that `AUTOAPPDEV_SCREENSHOTS` names, or of the scene that `AUTOAPPDEV_SCENE`
/// names.
#[test]
#[ignore = "a tool for people: make screenshots DIR=<folder>"]
fn screenshots() {
    let folder = PathBuf::from(std::env::var_os("AUTOAPPDEV_SCREENSHOTS").expect("AUTOAPPDEV_SCREENSHOTS names a folder"));
    fs::create_dir_all(&folder).expect("it can be made");
    let browser = Browser::start().expect("a browser");
    play(&browser, &[DESKTOP, DESKTOP_DARK, PHONE, PHONE_DARK], &mut |name| {
        browser.settle();
        fs::write(folder.join(format!("{name}.png")), browser.picture()).expect("it can be written");
    });
}
