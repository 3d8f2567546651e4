//! The load engine's own limit: a server that does nothing, and the engine against it.
//!
//!     load_speed serve 127.0.0.1:9000 [4096]         keeps so many bytes of each request: a leak
//!     load_speed run http://127.0.0.1:9000 64 5      users, seconds
//!
//! `scripts/bench_load.py` runs both, and wrk beside them.

use std::sync::Arc;
use std::time::Duration;

use nobat_check::client::{CallProtocol, Prepared, Target, TargetSettings};
use nobat_check::load::{Load, LoadPlan, Pause, TargetCaller, WarmUpLength, measure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 19\r\n\r\n{\"predictions\":[1]}";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(address, 0).await?,
        ["serve", address, leaks] => serve(address, leaks.parse()?).await?,
        ["run", url, users, seconds] => run(url, users.parse()?, Duration::from_secs(seconds.parse()?)).await?,
        _ => return Err("load_speed serve ADDRESS [BYTES] | load_speed run URL USERS SECONDS".into()),
    }
    Ok(())
}

/// Answers whatever comes with the same bytes, and says where.
async fn serve(address: &str, leaks: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(converse(stream, leaks));
    }
}

/// Each read is a request: its clients wait for an answer, and their requests are small.
async fn converse(mut stream: TcpStream, leaks: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await? > 0 {
        if leaks > 0 {
            std::mem::forget(vec![1u8; leaks]);
        }
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

async fn run(url: &str, users: usize, length: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let settings = TargetSettings {
        url: url.into(),
        grpc: None,
        api_key: None,
        model: "m".into(),
        version: None,
        template: None,
        patience: Duration::from_secs(10),
    };
    let target = Target::new(settings, CallProtocol::TfServing)?;
    let requests: Arc<[Prepared]> = [target.prepare(&[])?].into();
    let load = Load::Closed { users, pause: Pause::None };
    let warm_up = WarmUpLength::Fixed(Duration::from_millis(500));
    let plan = LoadPlan { warm_up, threads: 1, runs: 1, run: length, ..LoadPlan::new(load, length) };
    let outcome = measure(&plan, TargetCaller::each(&target, requests), |_| ()).await?;
    let whole = outcome.whole();
    println!("requests/s {:.0}", whole.latencies.count() as f64 / length.as_secs_f64());
    println!("failed {}", whole.failed());
    Ok(())
}
