//! Arguments to one of `serve`, `generate`, `bench`, `models`. The only room that uses `anyhow` and draws progress bars.

pub mod serve;

use std::process::ExitCode;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
