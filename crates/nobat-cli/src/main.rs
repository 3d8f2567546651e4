//! The `nobat` command: `serve` joins a gateway and a worker in one process; the
//! rest are the tools people reach for around a running service.
//!
//! Owns command lines, what they print and their exit codes (0 done, 1 failed,
//! 2 misused; of tests and comparisons 1 is a bad outcome, 2 what could not be run). It does not own how anything works: serving is the gateway's and
//! the worker's, and the tools are clients of the public API like any other.

#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod audit;
mod bench;
mod client;
mod compare;
mod completions;
mod config;
mod cron;
mod demo;
mod doctor;
#[cfg(test)]
mod documents_tests;
mod healthcheck;
mod input;
mod inspect;
mod jobs;
mod keys;
mod load;
mod models;
mod predict;
mod python;
mod queue;
mod routes;
mod scheduler;
mod serve;
mod table;
mod target;
mod test;
mod top;
mod webhooks;
mod welcome;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use client::Tool;
use nobat_runtime::process;

/// Freed memory goes back to the system after a load; glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A model server built around a queue.
#[derive(Parser)]
#[command(
    name = "nobat",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        nobat demo                                    serve a model that is built in, to try\n  \
        nobat serve ./model.onnx                      serve one model on http://127.0.0.1:8000\n  \
        nobat serve --models ./models --redis redis://127.0.0.1:6379\n  \
        nobat inspect ./model.onnx                    what it takes, and the settings to start from\n  \
        nobat predict digits --input digit.json       send a request, print the answer\n  \
        nobat jobs list --state dead                  what failed for good\n  \
        nobat bench digits --input digit.json         measure a running service"
)]
struct Cli {
    /// Configuration file [default: config/nobat.toml where there is one].
    #[arg(long, global = true, env = "NOBAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    /// Serve HTTP and gRPC in front of the queues on Redis; workers elsewhere serve the models.
    #[command(after_help = "This is the program nobat-gateway.")]
    Gateway(nobat_gateway::Args),
    /// Serve models from the queues on Redis.
    #[command(after_help = "This is the program nobat-worker.")]
    Worker(nobat_worker::Args),
    Inspect(inspect::Args),
    Predict(predict::Args),
    Jobs(Tool<jobs::Action>),
    Models(models::Args),
    Load(models::LoadArgs),
    Unload(models::UnloadArgs),
    #[command(alias = "route")]
    Routes(Tool<routes::Action>),
    Queue(Tool<queue::Action>),
    Cron(Tool<cron::Action>),
    Webhooks(Tool<webhooks::Action>),
    Scheduler(scheduler::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Test(Box<test::Args>),
    Compare(compare::Args),
    Healthcheck(healthcheck::Args),
    Audit(audit::Args),
    Keys(keys::Args),
    Top(top::Args),
    Config(config::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let file = cli.config.as_deref();
    let done = match cli.command {
        Command::Gateway(args) => return nobat_gateway::run(args),
        Command::Worker(args) => return nobat_worker::run(args),
        Command::Test(args) => return test::run(*args),
        Command::Compare(args) => return compare::run(args),
        Command::Serve(args) => serve::run(args, file),
        Command::Demo(args) => demo::run(args, file),
        Command::Inspect(args) => inspect::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Jobs(args) => jobs::run(args),
        Command::Models(args) => models::run(args),
        Command::Load(args) => models::load(args),
        Command::Unload(args) => models::unload(args),
        Command::Routes(args) => routes::run(args),
        Command::Queue(args) => queue::run(args),
        Command::Cron(args) => cron::run(args),
        Command::Webhooks(args) => webhooks::run(args),
        Command::Scheduler(args) => scheduler::run(args, file),
        Command::Doctor(args) => doctor::run(args, file),
        Command::Bench(args) => bench::run(args),
        Command::Healthcheck(args) => healthcheck::run(args),
        Command::Audit(args) => audit::run(&args),
        Command::Keys(args) => keys::run(args),
        Command::Top(args) => top::run(&args),
        Command::Config(args) => config::run(args, file),
        Command::Completions(args) => completions::run(args, Cli::command()),
    };
    process::end("nobat", done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_says_what_it_does_and_no_two_the_same() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        let told = cli.get_subcommands().filter_map(|command| command.get_about().map(ToString::to_string));
        let told: std::collections::BTreeSet<String> = told.collect();
        assert_eq!(told.len(), cli.get_subcommands().count(), "{told:#?}");
        assert!(told.contains("List, show, wait for, cancel and retry jobs"), "{told:#?}");
    }
}
