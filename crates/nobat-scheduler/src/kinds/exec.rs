//! A command of the operator's runs, without a shell.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nobat_core::{Error, Result};

use super::services::Done;
use crate::schedule::Exec;

/// How often a command is asked whether it has ended.
const ASK: Duration = Duration::from_millis(20);

pub(super) async fn exec(kind: &Exec) -> Result<Done> {
    let failed = |why: String| Error::invalid(format!("command `{}` {why}", kind.command.join(" ")));
    let (program, arguments) = kind.command.split_first().ok_or_else(|| failed("is empty".into()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(dir) = &kind.dir {
        command.current_dir(dir);
    }
    let child = command.spawn().map_err(|e| failed(format!("cannot start: {e}; check path and rights")))?;
    let mut running = Running(child);
    let most = kind.max_output_bytes as usize;
    let (stdout, stderr) = (running.0.stdout.take(), running.0.stderr.take());
    let out = tokio::task::spawn_blocking(move || newest(stdout, most / 2));
    let err = tokio::task::spawn_blocking(move || newest(stderr, most / 2));
    let status = loop {
        match running.0.try_wait().map_err(|e| failed(format!("cannot be waited for: {e}")))? {
            Some(status) => break status,
            None => tokio::time::sleep(ASK).await,
        }
    };
    let (out, err) = (out.await.unwrap_or_default(), err.await.unwrap_or_default());
    let output = format!("{out}{err}");
    match status.code() {
        Some(0) => Ok(Done { exit_code: Some(0), output, ..Done::said("exit code 0") }),
        Some(code) => Err(failed(format!("ended with exit code {code}: {}", output.trim_end()))),
        None => Err(failed(format!("was ended by a signal: {}", output.trim_end()))),
    }
}

/// A command at work; killed when dropped, which is how its time is bounded.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already: neither does anything. Else it is gone at once.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The newest `most` bytes of a stream, read to its end.
fn newest(stream: Option<impl Read>, most: usize) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; 8192];
    while let Ok(count) = stream.read(&mut chunk) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * most {
            kept.drain(..kept.len() - most);
        }
    }
    let from = kept.len().saturating_sub(most);
    String::from_utf8_lossy(&kept[from..]).into_owned()
}
