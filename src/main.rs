//! The binary: passes the modes to the command line.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use autoappdev::absent::if_there;
use autoappdev::cli::{self, Modes};
use autoappdev::config::Config;
use autoappdev::console::{json_line, printable};
use autoappdev::made::Made;
use autoappdev::process;
use autoappdev::runtime_dir::{self, By};
use autoappdev::{serve, shim, store};
use serde::Serialize;

/// The output of `migrate --json`.
#[derive(Serialize)]
struct Migrated<'a> {
    ok: bool,
    applied: &'a [String],
    schema: i64,
}

/// The output of `check --json`.
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

fn main() -> ExitCode {
    let modes = Modes {
        serve: |config| exit_code(serve::serve(config).map(|()| ExitCode::SUCCESS)),
        shim: shim::run,
        migrate: |config, json| exit_code(migrate(config, json)),
        check: |config, json| exit_code(check(config, json)),
    };
    cli::run(std::env::args_os(), &modes)
}

fn exit_code(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        // If stderr cannot be written, the exit code still reports the failure.
        let _ = writeln!(io::stderr(), "autoappdev: {}", printable(&format!("{error:#}")));
        ExitCode::FAILURE
    })
}

fn migrate(mut config: Config, json: bool) -> anyhow::Result<ExitCode> {
    process::survive_file_size_limit().context("cannot catch SIGXFSZ")?;
    // The database is usually in the runtime directory, which a new installation does not have yet.
    let mut made = Made::default();
    settle(&mut config, By::Server, |runtime_dir| {
        made.folder(runtime_dir);
        runtime_dir::create_dir(runtime_dir)
    })?;
    let applied = store::migrate(&config.database).map_err(|error| anyhow!("failed to {error}"))?;
    made.keep();
    if json {
        return say_lines(&[text_of(&Migrated { ok: true, applied: &applied, schema: store::schema_version() })]);
    }
    let mut lines: Vec<String> = applied.iter().map(|migration| format!("applied {migration}")).collect();
    let nothing = if applied.is_empty() { "nothing to apply; " } else { "" };
    lines.push(format!("{nothing}{} has schema {}", config.database.display(), store::schema_version()));
    say_lines(&lines)
}

/// Resolves the links in the database's path; calls `prepare` first if the database is in the runtime directory.
fn settle(config: &mut Config, by: By, prepare: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
    if config.database.starts_with(&config.runtime_dir) {
        let given = &config.runtime_dir;
        let folder = Some(&*config.folder).filter(|_| !config.is_runtime_dir_named);
        let checked = runtime_dir::resolve_runtime_dir(given, by, folder).and_then(|real| {
            prepare(&real)?;
            if_there(runtime_dir::check_dir(&real, by))?;
            Ok(real)
        });
        let real = checked.map_err(|error| anyhow!("cannot use {} as the runtime directory: {error}", given.display()))?;
        config.move_to(&real);
    }
    let resolved = runtime_dir::resolve_database(config, by);
    config.database = resolved.map_err(|error| anyhow!("cannot use {} as the database: {error}", config.database.display()))?;
    Ok(())
}

fn check(mut config: Config, json: bool) -> anyhow::Result<ExitCode> {
    settle(&mut config, By::Client, |_| Ok(()))?;
    let checked = store::check(&config.database).map_err(|error| anyhow!("failed to {error}"))?;
    let is_ok = checked.iter().all(|step| step.result.is_ok());
    let steps = checked.iter().map(|step| {
        let (Ok(found) | Err(found)) = &step.result;
        CheckedStep { name: step.name, ok: step.result.is_ok(), found }
    });
    let said = if json {
        say_lines(&[text_of(&Checked { ok: is_ok, steps: steps.collect() })])?
    } else {
        let line = |step: CheckedStep<'_>| format!("{:8}{}: {}", if step.ok { "ok" } else { "FAILED" }, step.name, step.found);
        say_lines(&steps.map(line).collect::<Vec<_>>())?
    };
    Ok(if is_ok { said } else { ExitCode::FAILURE })
}

fn text_of(value: &impl Serialize) -> String {
    json_line(&serde_json::to_string(value).expect("plain data"))
}

/// Prints the result, each text as one line. It is a failure if stdout cannot be written.
fn say_lines(lines: &[String]) -> anyhow::Result<ExitCode> {
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    match writeln!(io::stdout(), "{}", lines.join("\n")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
