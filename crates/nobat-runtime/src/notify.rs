//! The service manager's protocol: `READY=1`, `STOPPING=1`, `WATCHDOG=1`.
//!
//! Source: sd_notify(3) and sd_watchdog_enabled(3). Each message is one
//! datagram to the socket in `NOTIFY_SOCKET`; without one, nothing is sent.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The process is up: what systemd's `Type=notify` waits for. Its watchdog, if it set
/// one for us, is told from then on; inside a tokio runtime.
pub fn ready() {
    send("READY=1");
    if let Some(every) = watchdog_interval(env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok()) {
        tokio::spawn(watchdog(every));
    }
}

/// The process has begun to drain.
pub fn stopping() {
    send("STOPPING=1");
}

/// Tells the watchdog, at half of the time it allows, that this runtime still runs its
/// tasks; for ever.
async fn watchdog(every: Duration) {
    loop {
        send("WATCHDOG=1");
        tokio::time::sleep(every).await;
    }
}

fn watchdog_interval(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let for_us = pid.is_none_or(|pid| pid == std::process::id().to_string());
    let usec = usec?.parse::<u64>().ok().filter(|&usec| usec > 0 && for_us)?;
    Some(Duration::from_micros(usec / 2))
}

fn send(message: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send_to(socket.as_bytes(), message) {
        log::warn!("cannot tell the service manager {message}: {error}");
    }
}

fn send_to(socket: &[u8], message: &str) -> io::Result<()> {
    let address = match socket {
        // A leading @ stands for the zero byte of an abstract name.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let datagram = UnixDatagram::unbound()?;
    // A service manager that does not read must not hold us up.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        send_to(path.as_os_str().as_bytes(), "READY=1").expect("sent");
        assert_eq!(receive(&socket), "READY=1");

        let name = format!("nobat-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        send_to(format!("@{name}").as_bytes(), "STOPPING=1").expect("sent");
        assert_eq!(receive(&socket), "STOPPING=1");
    }

    #[test]
    fn a_missing_manager_is_an_error_not_a_wait() {
        assert!(send_to(b"/nonexistent/notify", "READY=1").is_err());
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time_and_only_ours() {
        let usec = || Some("30000000".to_owned());
        assert_eq!(watchdog_interval(usec(), None), Some(Duration::from_secs(15)));
        assert_eq!(watchdog_interval(usec(), Some(std::process::id().to_string())), Some(Duration::from_secs(15)));
        assert_eq!(watchdog_interval(usec(), Some("1".into())), None);
        assert_eq!(watchdog_interval(Some("x".into()), None), None);
        assert_eq!(watchdog_interval(Some("0".into()), None), None);
    }
}
