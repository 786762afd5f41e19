//! The `sluice` command.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ctrl::cli::run(&ctrl::cli::Arguments::parse()))
}
