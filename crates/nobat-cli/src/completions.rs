//! `nobat completions`: what a shell asks to complete this command's words.

use anyhow::Result;
use clap::Command;
use clap_complete::{Shell, generate};
use nobat_runtime::streams::print_bytes;

/// Print a shell's completions of this command.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat completions bash > ~/.local/share/bash-completion/completions/nobat\n  \
    nobat completions zsh > ~/.zfunc/_nobat            with ~/.zfunc in $fpath\n  \
    nobat completions fish > ~/.config/fish/completions/nobat.fish")]
pub(crate) struct Args {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn run(args: Args, mut command: Command) -> Result<()> {
    // Whole before it is written: a reader that goes early is no fault of ours.
    let mut text = Vec::new();
    generate(args.shell, &mut command, "nobat", &mut text);
    Ok(print_bytes(&text)?)
}
