//! The binary: hands the modes to the command line.

use std::process::ExitCode;

use autoappdev::cli::{self, Modes};
use autoappdev::config::Config;
use autoappdev::made::Made;
use autoappdev::{run_dir, serve, shim, store};

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

fn migrate(config: &Config) -> ExitCode {
    // The database's usual place is the runtime directory, which a new installation does not have yet.
    let mut made = Made::default();
    made.folder(&config.runtime_dir);
    if config.database.parent() == Some(&*config.runtime_dir)
        && let Err(error) = run_dir::create_private_dir(&config.runtime_dir)
    {
        return failed(&format!("cannot create the runtime directory {}: {error}", config.runtime_dir.display()));
    }
    match store::migrate(&config.database) {
        Ok(applied) => {
            made.keep();
            for migration in &applied {
                println!("applied {migration}");
            }
            let nothing = if applied.is_empty() { "nothing to apply; " } else { "" };
            println!("{nothing}{} has schema {}", config.database.display(), store::schema_version());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&format!("failed to {error}")),
    }
}

fn check(config: &Config) -> ExitCode {
    match store::check(&config.database) {
        Ok(report) => {
            for step in &report.steps {
                match &step.result {
                    Ok(found) => println!("ok      {}: {found}", step.name),
                    Err(found) => println!("FAILED  {}: {found}", step.name),
                }
            }
            if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => failed(&format!("failed to {error}")),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("autoappdev: {why}");
    ExitCode::FAILURE
}
