//! The `deepzero` command: parse, run one verb, say in one line what went wrong.

mod cli;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: deepzero::kernels::memory::CacheAligned = deepzero::kernels::memory::CacheAligned;

fn main() -> ExitCode {
    deepzero::kernels::memory::keep_freed_memory();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .init();
    let ended = match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(answer) => print_answer(&answer),
    };
    match ended {
        Ok(exit) => exit.code(),
        Err(error) => {
            if cli::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            cli::tell!("deepzero: {}", cli::in_one_line(&error));
            cli::Exit::of(&error).code()
        }
    }
}

/// Prints what the parser answers in place of a run: help and the version on stdout, which is a result and may fail,
/// or what is wrong with the command line on stderr.
fn print_answer(answer: &clap::Error) -> anyhow::Result<cli::Exit> {
    let printed = answer.print().and_then(|()| std::io::stdout().flush());
    if answer.use_stderr() {
        return Ok(cli::Exit::Usage);
    }
    printed?;
    Ok(cli::Exit::Ok)
}
