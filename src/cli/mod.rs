//! Arguments to one of `serve`, `generate`, `bench`, `models`. The only room that uses `anyhow` and draws progress bars.

mod bench;
pub mod device;
mod generate;
pub mod memory;
pub mod model;
mod options;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A self-hosted inference server for Stable Diffusion that speaks Replicate's predictions API.
#[derive(Debug, Parser)]
#[command(name = "stablehand", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(Box<generate::GenerateArgs>),
    Bench(bench::BenchArgs),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Generate(args) => args.run(),
        Command::Bench(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
