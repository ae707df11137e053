//! Arguments to one of `serve`, `generate`, `bench`, `models`. The only room that uses `anyhow` and draws progress bars.

mod access;
mod bench;
pub mod device;
mod generate;
mod hub;
pub mod memory;
pub mod model;
mod models;
mod options;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ServeArgs;

/// A self-hosted inference server for Stable Diffusion that speaks Replicate's predictions API.
#[derive(Debug, Parser)]
#[command(name = "stablehand", version)]
struct Cli {
    /// Without a command: serve.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve predictions over HTTP (the default)
    Serve(Box<ServeArgs>),
    Generate(Box<generate::GenerateArgs>),
    Bench(bench::BenchArgs),
    Models(models::ModelsArgs),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    // Without a command the settings come from the environment, as they do for a `serve` that is written out.
    let command = Cli::parse().command.or_else(|| Cli::parse_from(["stablehand", "serve"]).command);
    let done = match command {
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Generate(args)) => args.run(),
        Some(Command::Bench(args)) => args.run(),
        Some(Command::Models(args)) => args.run(),
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
