//! The binary: hands the modes to the command line.

use std::io::{self, Write};
use std::process::ExitCode;

use autoappdev::cli::{self, Modes};
use autoappdev::config::Config;
use autoappdev::made::Made;
use autoappdev::store::CheckStep;
use autoappdev::{run_dir, serve, shim, store};
use serde::Serialize;

/// What `migrate --json` prints.
#[derive(Serialize)]
struct Migrated<'a> {
    ok: bool,
    applied: &'a [String],
    schema: i64,
}

/// What `check --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    ok: bool,
    steps: Vec<CheckedStep<'a>>,
}

#[derive(Serialize)]
struct CheckedStep<'a> {
    name: &'a str,
    ok: bool,
    found: &'a str,
}

fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

fn main() -> ExitCode {
    let modes = Modes { serve: serve_mode, shim: shim::run, migrate, check };
    cli::run(std::env::args_os(), &modes)
}

fn serve_mode(config: Config) -> ExitCode {
    match serve::serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn migrate(config: &Config, json: bool) -> ExitCode {
    // The database's usual place is the runtime directory, which a new installation does not have yet.
    let mut made = Made::default();
    made.folder(&config.runtime_dir);
    if config.database.parent() == Some(&*config.runtime_dir)
        && let Err(error) = run_dir::create_private_dir(&config.runtime_dir)
    {
        return failed(&format!("cannot create the runtime directory {}: {error}", config.runtime_dir.display()));
    }
    let migrated = store::migrate(&config.database);
    if migrated.is_ok() {
        made.keep();
    }
    match migrated {
        Ok(applied) if json => say(&text_of(&Migrated { ok: true, applied: &applied, schema: store::schema_version() })),
        Ok(applied) => {
            let lines = applied.iter().map(|migration| format!("applied {migration}\n")).collect::<Vec<_>>().concat();
            let nothing = if applied.is_empty() { "nothing to apply; " } else { "" };
            say(&format!("{lines}{nothing}{} has schema {}", config.database.display(), store::schema_version()))
        }
        Err(error) => failed(&format!("failed to {error}")),
    }
}

fn check(config: &Config, json: bool) -> ExitCode {
    match store::check(&config.database) {
        Ok(steps) => {
            let is_ok = steps.iter().all(|step| step.result.is_ok());
            let said = if json {
                let steps = steps
                    .iter()
                    .map(|step| {
                        let (Ok(found) | Err(found)) = &step.result;
                        CheckedStep { name: step.name, ok: step.result.is_ok(), found }
                    })
                    .collect();
                say(&text_of(&Checked { ok: is_ok, steps }))
            } else {
                let line = |step: &CheckStep| match &step.result {
                    Ok(found) => format!("ok      {}: {found}", step.name),
                    Err(found) => format!("FAILED  {}: {found}", step.name),
                };
                say(&steps.iter().map(line).collect::<Vec<_>>().join("\n"))
            };
            if is_ok { said } else { ExitCode::FAILURE }
        }
        Err(error) => failed(&format!("failed to {error}")),
    }
}

/// Prints the result; an unwritable stdout is a failure.
fn say(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&format!("cannot write the output: {error}")),
    }
}

fn failed(why: &str) -> ExitCode {
    // If stderr cannot be written, the exit code still reports the failure.
    let _ = writeln!(io::stderr(), "autoappdev: {why}");
    ExitCode::FAILURE
}
