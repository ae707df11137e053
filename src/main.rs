//! The `stablehand` program: arguments in, one of `serve`, `generate`, `bench`, `models` out.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    stablehand::cli::main()
}
