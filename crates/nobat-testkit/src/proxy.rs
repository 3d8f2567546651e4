//! A proxy before Redis that loses replies after the server has acted on them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Forwards to a server; told to, it cuts a connection instead of passing a
/// script's reply on.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    cuts: Arc<AtomicU32>,
}

impl Proxy {
    /// Starts a proxy before the server at `port`.
    pub fn before(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(AtomicU32::new(0));
        let armed = cuts.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("a socket");
                let scripted = Arc::new(AtomicBool::new(false));
                let there = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                let seen = scripted.clone();
                std::thread::spawn(move || {
                    pump(there.0, there.1, |bytes| {
                        if bytes.windows(5).any(|window| window == b"FCALL") {
                            seen.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                });
                let armed = armed.clone();
                std::thread::spawn(move || {
                    pump(server, client, |_| {
                        let cut = scripted.load(Ordering::SeqCst)
                            && armed
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                                .is_ok();
                        !cut
                    });
                });
            }
        });
        Proxy { port: own, cuts }
    }

    /// Loses the next script replies, `count` of them.
    pub fn cut(&self, count: u32) {
        self.cuts.fetch_add(count, Ordering::SeqCst);
    }

    /// Cuts still to come.
    pub fn left(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !pass(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
