//! The `nobat-gateway` program; what it does is the library's.

use std::process::ExitCode;

use clap::Parser;

/// Freed memory goes back to the system after a load; glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nobat_gateway::run(nobat_gateway::Args::parse())
}
