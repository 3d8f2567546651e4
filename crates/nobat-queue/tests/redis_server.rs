//! Which servers the Redis store accepts and how it reaches them: an ACL user,
//! a cluster, TLS, Sentinel; and what it tells the operator of one that is unfit.

mod redis_support;

use std::time::{Duration, Instant};

use nobat_core::ErrorCode;
use nobat_core::job::JobState;
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Durability, Queue, QueueSettings};
use redis_support::*;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_unfit_server_is_refused_with_what_to_set() {
    let evicting = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let refused = RedisQueue::connect(&evicting.url(), QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains("maxmemory-policy noeviction"), "{refused}");

    let plain = Server::start(&[]);
    let fsync = QueueSettings { durability: Durability::Fsync, ..QueueSettings::default() };
    match RedisQueue::connect(&plain.url(), fsync, "nobat").await.err() {
        Some(refused) => {
            assert!(refused.message.contains("WAITAOF") || refused.message.contains("appendonly yes"), "{refused}")
        }
        None => panic!("fsync without an append-only file was accepted"),
    }
    let settings = QueueSettings::default();
    let bad = RedisQueue::connect("not a url", settings.clone(), "nobat").await.err().expect("refused");
    assert_eq!(bad.code, ErrorCode::InvalidParameter);
    let nobody = format!("redis://127.0.0.1:{}/", free_port());
    let refused = RedisQueue::connect(&nobody, settings, "nobat").await.err().expect("refused");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    let health = queue(&plain, QueueSettings::default()).await.health().await.expect("healthy");
    assert!(health.warnings.iter().any(|warning| warning.contains("appendonly yes")));
}

/// Redis 7.2 and Valkey have WAITAOF, Redis 7.0 has not: there it must be said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fsync_every_accepted_job_is_on_disk_first() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let fsync = QueueSettings { durability: Durability::Fsync, ..QueueSettings::default() };
    let mut raw = server.connection();
    let commands: Vec<Option<Vec<redis::Value>>> =
        redis::cmd("COMMAND").arg("INFO").arg("waitaof").query(&mut raw).expect("told");
    let queue = match (RedisQueue::connect(&server.url(), fsync, "nobat").await, &commands[0]) {
        (Ok(queue), Some(_)) => queue,
        (Err(refused), None) => return assert!(refused.message.contains("WAITAOF"), "{refused}"),
        (Ok(_), None) => panic!("fsync was promised without WAITAOF"),
        (Err(refused), Some(_)) => panic!("{refused}"),
    };
    let client = queue.client();
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(client.enqueue(job(format!("{n}"))).await.expect("accepted").id);
    }
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut raw).expect("told");
    assert!(stats.lines().any(|line| line.starts_with("cmdstat_waitaof:calls=20,")), "{stats}");
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    for id in ids {
        let view = client.wait(id, SOON).await.expect("the store answers").expect("is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    worker.abort();
}

#[tokio::test]
async fn an_acl_user_confined_to_the_prefix_is_enough() {
    let server = Server::start(&[]);
    let mut raw = server.connection();
    let rules = ["nobat", "on", ">secret", "~nobat*", "&nobat*", "+@all", "-@admin", "-@dangerous", "+info"];
    redis::cmd("ACL").arg("SETUSER").arg(&rules).exec(&mut raw).expect("a user");
    let url = format!("redis://nobat:secret@127.0.0.1:{}/", server.port);
    let queue = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("allowed");
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    assert_eq!(client.call(job("x"), SOON).await.expect("answered").state, JobState::Succeeded);
    worker.abort();
    let denied = RedisQueue::connect(&url, QueueSettings::default(), "other").await.err().expect("denied");
    assert!(denied.message.contains("denies"), "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_serves_every_models_queue() {
    let nodes: Vec<Server> =
        (0..3).map(|_| Server::start(&["--cluster-enabled", "yes", "--appendonly", "yes"])).collect();
    let slots = [(0, 5460), (5461, 10922), (10923, 16383)];
    for (node, (from, to)) in nodes.iter().zip(slots) {
        let mut raw = node.connection();
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(from).arg(to).exec(&mut raw).expect("slots");
        redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(nodes[0].port).exec(&mut raw).expect("met");
    }
    let deadline = Instant::now() + SOON;
    let ready = |node: &Server| {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut node.connection()).expect("told");
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    while !nodes.iter().all(ready) {
        assert!(Instant::now() < deadline, "the cluster never formed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let url = format!("redis+cluster://{}", hosts.join(","));
    let refused = RedisQueue::connect(&nodes[0].url(), QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains(&format!("write `redis+cluster://127.0.0.1:{}`", nodes[0].port)), "{refused}");
    let policy = |policy: &str| {
        let set = ["SET", "maxmemory-policy", policy];
        redis::cmd("CONFIG").arg(&set).exec(&mut nodes[2].connection()).expect("set");
    };
    policy("allkeys-lru");
    let refused = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains("maxmemory-policy noeviction"), "{refused}");
    assert!(refused.message.contains(&hosts[2]), "it says which master: {refused}");
    policy("noeviction");
    let queue = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("connects");
    let client = queue.client();
    for model in ["digits", "minilm", "resnet18", "whisper"] {
        let worker = tokio::spawn(serve(queue.consumer(model, "w").await.expect("opens"), 8));
        for payload in [vec![1; 40], vec![2; 50_000]] {
            let mut job = job(payload.clone());
            job.model = model.into();
            let view = client.call(job, SOON).await.expect("answered");
            assert_eq!(view.result.expect("has a result").outputs, payload, "{model}");
        }
        let mut kept = job("kept");
        kept.model = model.into();
        let kept = client.enqueue(kept).await.expect("accepted").id;
        client.wait(kept, SOON).await.expect("the store answers").expect("is there");
        worker.abort();
        assert_eq!(queue.counts(model).await.expect("counted").finished_total, 3);
    }
    let mut seen = 0;
    let mut cursor = None;
    loop {
        let page = queue.list(&Default::default(), cursor.as_deref(), 100).await.expect("listed");
        seen += page.jobs.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 12);
}

/// Answers every command like a server of another version.
fn pretend(version: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, version));
        }
    });
    port
}

fn answer(mut stream: std::net::TcpStream, version: &str) {
    use std::io::{Read, Write};
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        // Commands of a pipeline come together: one answer each.
        for command in String::from_utf8_lossy(&buffer[..count]).split('*').skip(1) {
            let info = format!("redis_version:{version}\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n");
            let reply = match command.to_uppercase() {
                hello if hello.contains("HELLO") => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned(),
                ask if ask.contains("INFO") => format!("${}\r\n{info}\r\n", info.len()),
                _ => "+OK\r\n".to_owned(),
            };
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_in_one_line() {
    let url = format!("redis://127.0.0.1:{}/", pretend("6.2.14"));
    let refused = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains("6.2.14") && refused.message.contains("7.0 or later"), "{refused}");
    assert_eq!(refused.message.lines().count(), 1);
}

#[tokio::test]
async fn a_user_without_a_permission_is_told_which_rules_it_needs() {
    let server = Server::start(&[]);
    let mut raw = server.connection();
    for (user, rules) in [("noscript", "-@scripting"), ("nochannel", "resetchannels"), ("noinfo", "-info")] {
        let rules = [user, "on", ">secret", "~*", "&*", "+@all", rules];
        redis::cmd("ACL").arg("SETUSER").arg(&rules).exec(&mut raw).expect("a user");
        let url = format!("redis://{user}:secret@127.0.0.1:{}/", server.port);
        let refused = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.err().expect("refused");
        assert!(refused.message.contains("give the user `~nobat* &nobat*"), "{user}: {refused}");
        assert_eq!(refused.message.lines().count(), 1, "{refused}");
    }
    let url = format!("redis://nobody:wrong@127.0.0.1:{}/", server.port);
    let refused = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains("user name and password"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_master_and_a_failover_ends_nothing() {
    let old = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let new = Server::start(&["--replicaof", &format!("127.0.0.1 {}", old.port)]);
    let deadline = Instant::now() + 3 * SOON;
    let following = || {
        let told: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query(&mut new.connection());
        told.is_ok_and(|info| info.contains("master_link_status:up"))
    };
    while !following() {
        assert!(Instant::now() < deadline, "the replica never followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sentinel = Sentinel::watch(old.port);
    let plain = format!("redis://127.0.0.1:{}/", sentinel.port);
    let refused = RedisQueue::connect(&plain, QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains(&format!("redis+sentinel://127.0.0.1:{}/SERVICE", sentinel.port)), "{refused}");
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let queue = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("connects");
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    assert_eq!(client.call(job("before"), SOON).await.expect("answered").state, JobState::Succeeded);
    // WAIT asks about the writes of its own connection and all before them.
    let mut raw = old.connection();
    redis::cmd("SET").arg("after-before").arg(1).exec(&mut raw).expect("set");
    let copies: i64 = redis::cmd("WAIT").arg(1).arg(20_000).query(&mut raw).expect("told");
    assert_eq!(copies, 1, "the replica has what was answered");

    while redis::cmd("SENTINEL").arg("FAILOVER").arg("main").exec(&mut sentinel.connection()).is_err() {
        assert!(Instant::now() < deadline, "the sentinel never knew the replica");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let is = |server: &Server, role: &[u8]| {
        // A server that changes its role cuts its connections.
        let told: Option<Vec<redis::Value>> = redis::cmd("ROLE").query(&mut server.connection()).ok();
        told.is_some_and(|told| told[0] == redis::Value::BulkString(role.to_vec()))
    };
    // What the old master still takes before it follows the new one is lost in any
    // failover: that is Redis's replication, not asked about here.
    while !is(&new, b"master") || !is(&old, b"slave") {
        assert!(Instant::now() < deadline, "the failover never happened");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        match client.call(job("after"), Duration::from_secs(2)).await {
            Ok(view) if view.state == JobState::Succeeded => break,
            // Refused while the connections move over.
            other => assert!(Instant::now() < deadline, "nobody answers after the failover: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let finished: i64 =
        redis::cmd("HGET").arg("nobat{digits}:meta").arg("fin").query(&mut new.connection()).expect("told");
    assert!(finished >= 2, "the new master has {finished} of 2");
    while let Err(e) = queue.health().await {
        assert!(Instant::now() < deadline, "readiness stays red after the failover: {e}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.abort();
}

#[tokio::test]
async fn a_cluster_url_to_a_plain_server_is_refused_with_the_one_to_write() {
    let plain = Server::start(&[]);
    let url = format!("redis+cluster://127.0.0.1:{}", plain.port);
    let refused = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.err().expect("refused");
    assert!(refused.message.contains("is no cluster; write `redis://host:port`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_replicated_an_accepted_job_is_on_a_replica_first() {
    let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let mut replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    let deadline = Instant::now() + 3 * SOON;
    while master.figure("replication", "connected_slaves") < 1.0
        || !redis::cmd("INFO")
            .arg("replication")
            .query::<String>(&mut replica.connection())
            .is_ok_and(|info| info.contains("master_link_status:up"))
    {
        assert!(Instant::now() < deadline, "the replica never followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let settings = QueueSettings { durability: Durability::Replicated, ..QueueSettings::default() };
    let queue = RedisQueue::connect(&master.url(), settings, "nobat").await.expect("connects");
    let client = queue.client();
    for n in 0..20 {
        let id = client.enqueue(job(format!("{n}"))).await.expect("accepted").id;
        let key = [&b"nobat{digits}:"[..], &id.random.to_be_bytes()[..12]].concat();
        let there: bool = redis::cmd("EXISTS").arg(key).query(&mut replica.connection()).expect("told");
        assert!(there, "job {n} was accepted and is on no replica");
    }
    replica.kill();
    let refused = client.enqueue(job("alone")).await.expect_err("no replica can have it");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    assert!(refused.message.contains("replica"), "{refused}");
    while !queue.health().await.expect("it answers").warnings.iter().any(|warning| warning.contains("no replica is")) {
        assert!(Instant::now() < deadline, "nobody is told that the replica is gone");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_certificate_authority_of_ones_own_carries_the_queue() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let openssl = |args: &[&str]| {
        let made = std::process::Command::new("openssl").args(args).current_dir(folder.path()).output();
        let made = made.expect("openssl is installed (scripts/test-deps installs it)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let subject = ["-subj", "/CN=nobat test", "-days", "2", "-nodes", "-newkey", "rsa:2048", "-sha256"];
    openssl(&[&["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem"], &subject[..]].concat());
    std::fs::write(folder.path().join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        .expect("written");
    openssl(&[
        "req",
        "-new",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=redis",
        "-keyout",
        "key.pem",
        "-out",
        "csr",
    ]);
    let signed = ["x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    openssl(&[&signed[..], &["-sha256", "-extfile", "san", "-out", "cert.pem"]].concat());
    let port = free_port();
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("cert.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    // The authority is read from the environment: a process of its own.
    let run = |authority: &str| {
        let host = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_client_of_a_tls_server", "--nocapture"])
            .env("NOBAT_TEST_TLS", format!("rediss://127.0.0.1:{port}/"))
            .env("SSL_CERT_FILE", authority)
            .output()
            .expect("it runs");
        let said = [host.stdout, host.stderr].concat();
        (host.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (served, output) = run(&path("ca.pem"));
    assert!(served && output.contains("served over tls"), "{output}");
    openssl(&[&["req", "-x509", "-keyout", "other.key", "-out", "other.pem"], &subject[..]].concat());
    let (served, output) = run(&path("other.pem"));
    assert!(!served && output.contains("certificate"), "an unknown authority is refused: {output}");
    drop(server);
}

/// The other end of the test above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_tls_server() {
    let Ok(url) = std::env::var("NOBAT_TEST_TLS") else { return };
    let queue = match RedisQueue::connect(&url, QueueSettings::default(), "nobat").await {
        Ok(queue) => queue,
        Err(e) => panic!("{e}"),
    };
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    for payload in [vec![1; 40], vec![2; 600_000]] {
        let view = client.call(job(payload.clone()), SOON).await.expect("answered");
        assert_eq!(view.result.expect("has a result").outputs, payload);
    }
    worker.abort();
    println!("\nserved over tls");
}
