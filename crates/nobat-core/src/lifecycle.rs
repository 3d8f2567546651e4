//! A service process's life, the same in every binary: it says that it is
//! ready, keeps its watchdog calm, and ends when asked.
//!
//! Owns SIGTERM and SIGINT, and the messages to systemd (`Type=notify`). What a
//! drain does is the binary's.

use std::io;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT. Make it before anything that takes time, so that a stop
/// during the start is heard.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Listens from now on; inside a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next of the signals.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells the service manager, where there is one, that the service is ready, and
/// calms its watchdog from the current runtime: when that hangs, so does this.
pub fn ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            loop {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                tokio::time::sleep(limit / 3).await;
            }
        });
    }
}

/// Tells the service manager that the process is on its way out.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}
