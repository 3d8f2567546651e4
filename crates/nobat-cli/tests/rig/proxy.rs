//! A TCP proxy that misbehaves on command: between a worker or a gateway and Redis.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Random;

/// What a connection suffers next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Delay,
    Reset,
    HalfClose,
    /// The request reaches the server and is executed; its reply never comes back.
    CutReply,
}

/// How often each fault was done.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) delayed: AtomicU64,
    pub(crate) reset: AtomicU64,
    pub(crate) half_closed: AtomicU64,
    pub(crate) cut: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) done: Arc<Done>,
    /// One in so many pieces of traffic suffers; 0 is none.
    one_in: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start(to: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let proxy = Proxy { address, done: Arc::default(), one_in: Arc::default() };
        let (done, one_in) = (proxy.done.clone(), proxy.one_in.clone());
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { continue };
                // The server may be down: then the client sees its connection closed.
                let Ok(server) = TcpStream::connect(to) else { continue };
                let pair = Pair { client, server, done: done.clone(), one_in: one_in.clone() };
                let random = Random::new(seed + number as u64);
                let _ = pair.start(random);
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn faults_one_in(&self, pieces: u64) {
        self.one_in.store(pieces, Ordering::SeqCst);
    }
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    done: Arc<Done>,
    one_in: Arc<AtomicU64>,
}

impl Pair {
    fn start(self, mut random: Random) -> io::Result<()> {
        self.client.set_nodelay(true)?;
        self.server.set_nodelay(true)?;
        let (mut client, mut server) = (self.client.try_clone()?, self.server.try_clone()?);
        // Requests go through as they come.
        std::thread::spawn(move || {
            let _ = io::copy(&mut client, &mut server);
            let _ = server.shutdown(Shutdown::Write);
        });
        // Replies suffer.
        std::thread::spawn(move || {
            let _ = self.replies(&mut random);
            let _ = self.client.shutdown(Shutdown::Both);
            let _ = self.server.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    fn replies(&self, random: &mut Random) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = (&self.server).read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::SeqCst);
            match self.fault(random) {
                None => (&self.client).write_all(&buffer[..length])?,
                Some(Fault::Delay) => {
                    count(&self.done.delayed);
                    std::thread::sleep(Duration::from_millis(random.below(300)));
                    (&self.client).write_all(&buffer[..length])?;
                }
                // Part of the reply, then nothing: the client knows less than the server did.
                Some(Fault::Reset) => {
                    count(&self.done.reset);
                    (&self.client).write_all(&buffer[..length / 2])?;
                    return Ok(());
                }
                Some(Fault::HalfClose) => {
                    count(&self.done.half_closed);
                    self.client.shutdown(Shutdown::Write)?;
                    std::thread::sleep(Duration::from_millis(50));
                    return Ok(());
                }
                Some(Fault::CutReply) => {
                    count(&self.done.cut);
                    return Ok(());
                }
            }
        }
    }

    fn fault(&self, random: &mut Random) -> Option<Fault> {
        match self.one_in.load(Ordering::SeqCst) {
            0 => None,
            one_in if random.below(one_in) == 0 => {
                Some([Fault::Delay, Fault::Reset, Fault::HalfClose, Fault::CutReply][random.below(4) as usize])
            }
            _ => None,
        }
    }
}
