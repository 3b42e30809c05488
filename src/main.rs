//! The `deepzero` command: parse, run one verb, say in one line what went wrong.

mod cli;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: deepzero::kernels::memory::CacheAligned = deepzero::kernels::memory::CacheAligned;

fn main() -> ExitCode {
    deepzero::kernels::memory::keep_freed_memory();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match cli::run(cli::Cli::parse()) {
        Ok(exit) => exit.code(),
        Err(error) => {
            if cli::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            eprintln!("deepzero: {}", cli::in_one_line(&error));
            cli::Exit::of(&error).code()
        }
    }
}
