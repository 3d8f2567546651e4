//! `nobat doctor`: beside a server, and on a queue that somebody has been at.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::rig::onnx;
use crate::rig::process::{Process, Redis, Service, free_port, root, worker};

#[test]
fn doctor_beside_a_server_finds_the_data_folder_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let data = folder.path().join("data").display().to_string();
    let look = || {
        let mut process = Process::start(folder.path(), "nobat", &["doctor"], &[("NOBAT_STORE__DATA", &data)]);
        (process.wait(Duration::from_secs(60)).expect("it ends").success(), process.output())
    };
    let (well, output) = look();
    let holder = format!("served by process {}", service.process.id());
    assert!(well && output.contains(&holder), "{output}");
    service.process.kill();
    let (well, output) = look();
    assert!(well && output.contains(" at ") && !output.contains("served by"), "{output}");
}

#[test]
fn doctor_names_and_mends_a_key_of_the_wrong_type_and_missing_bookkeeping() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let redis = Redis::start(folder.path(), false);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &[]);
    let mut first = worker(folder.path(), &redis.url(), &models, &[]);
    gateway.wait_for_model("echo");
    let mut http = gateway.http();
    assert_eq!(http.post("/api/v1/queues/echo/pause", "").expect("an answer").status, 200);
    let jobs: Vec<String> = (1..=3)
        .map(|value| {
            let answer = http.post("/api/v1/predict/echo", &onnx::body(value, 1)).expect("an answer");
            assert_eq!(answer.status, 202, "{}", answer.text());
            answer.json()["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    first.kill();
    tell(&redis, "DEL nobat{echo}:meta");
    tell(&redis, "DEL nobat{echo}:leases");
    tell(&redis, "SET nobat{echo}:leases x");

    let (found, output) = doctor(folder.path(), &redis, &[]);
    assert!(!found, "{output}");
    assert!(output.contains("key `nobat{echo}:leases` is a string, must be a zset"), "{output}");
    assert!(output.contains("key `nobat{echo}:meta` is missing though jobs wait"), "{output}");
    let (mended, output) = doctor(folder.path(), &redis, &["--repair"]);
    assert!(mended && output.contains("set right"), "{output}");
    let (well, output) = doctor(folder.path(), &redis, &[]);
    assert!(well && output.contains("in order"), "{output}");

    let _second = worker(folder.path(), &redis.url(), &models, &[]);
    for (id, value) in jobs.iter().zip(1..) {
        let result = http.get(&format!("/api/v1/jobs/{id}/result?wait=60")).expect("an answer");
        assert_eq!(result.status, 200, "{}", result.text());
        assert_eq!(result.json()["predictions"][0][63].as_f64(), Some(f64::from(value)));
    }
}

/// Runs it; whether it found all well, and what it said.
fn doctor(folder: &Path, redis: &Redis, more: &[&str]) -> (bool, String) {
    let url = redis.url();
    let args = [&["doctor", "--redis", &url, "--queue"], more].concat();
    let mut process = Process::start(folder, "nobat", &args, &[]);
    let status = process.wait(Duration::from_secs(60)).expect("it ends");
    (status.success(), process.output())
}

/// One command as somebody at a console would give it.
fn tell(redis: &Redis, command: &str) {
    let mut stream = TcpStream::connect(redis.address()).expect("redis listens");
    stream.write_all(format!("{command}\r\n").as_bytes()).expect("sent");
    let mut reply = [0; 64];
    let count = stream.read(&mut reply).expect("an answer");
    assert!(matches!(reply[..count].first(), Some(b'+' | b':')), "{:?}", String::from_utf8_lossy(&reply[..count]));
}

/// A folder as pip leaves it, with the records of these packages, written here, around this
/// checkout's library; the path of the library in it.
fn packages(folder: &Path, installed: &[(&str, &str)]) -> String {
    let capi = folder.join("site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&capi).expect("a folder");
    let library = std::env::var("NOBAT_ORT_LIB")
        .map_or_else(|_| root().join(".nobat/lib/libonnxruntime.so"), std::path::PathBuf::from);
    std::os::unix::fs::symlink(library, capi.join("libonnxruntime.so.1.31.0")).expect("a link");
    for (name, version) in installed {
        let told = folder.join(format!("site-packages/{name}-{version}.dist-info"));
        std::fs::create_dir(&told).expect("a folder");
        std::fs::write(told.join("RECORD"), "onnxruntime/capi/libonnxruntime.so.1.31.0,,\n").expect("a record");
    }
    capi.join("libonnxruntime.so.1.31.0").display().to_string()
}

/// What it says of the line that begins so, and whether it found all well.
fn says(folder: &Path, library: &str, env: &[(&str, &str)], line: &str) -> (bool, String) {
    let env = [&[("NOBAT_ORT_LIB", library)], env].concat();
    let mut process = Process::start(folder, "nobat", &["doctor"], &env);
    let status = process.wait(Duration::from_secs(60)).expect("it ends");
    let output = process.output();
    let found = output.lines().find(|found| found.starts_with(line)).unwrap_or_else(|| panic!("no {line}: {output}"));
    (status.success(), found.to_owned())
}

#[test]
fn doctor_names_the_packages_that_brought_the_runtime_and_what_is_wrong_with_them() {
    let whole = tempfile::tempdir().expect("a folder");
    let library = packages(whole.path(), &[("onnxruntime", "1.31.0")]);
    let (well, said) = says(whole.path(), &library, &[], "ok      onnx runtime");
    assert!(well && said.contains("onnxruntime 1.31.0 loads from") && said.contains(&library), "{said}");

    let both = tempfile::tempdir().expect("a folder");
    let library = packages(both.path(), &[("onnxruntime", "1.31.0"), ("onnxruntime_gpu", "1.31.1")]);
    let (well, said) = says(both.path(), &library, &[], "unfit   onnx runtime");
    assert!(!well && said.contains("onnxruntime 1.31.0 and onnxruntime-gpu 1.31.1 are both installed"), "{said}");
    assert!(said.contains("pip uninstall -y onnxruntime onnxruntime-gpu"), "{said}");

    let old = tempfile::tempdir().expect("a folder");
    let library = packages(old.path(), &[("onnxruntime", "1.20.1")]);
    let (well, said) = says(old.path(), &library, &[], "unfit   onnx runtime");
    assert!(!well && said.contains("pip install -U onnxruntime"), "{said}");
}

#[test]
fn doctor_tells_of_a_package_for_gpus_that_finds_no_cuda() {
    let folder = tempfile::tempdir().expect("a folder");
    // The record is that of the package for GPUs; the library itself knows no CUDA.
    let library = packages(folder.path(), &[("onnxruntime_gpu", "1.31.1")]);
    let (well, said) = says(folder.path(), &library, &[], "warning cuda");
    assert!(well && said.contains("onnxruntime-gpu[cuda,cudnn]"), "{said}");
    let (well, said) = says(folder.path(), &library, &[("NOBAT_WORKER__PROVIDER__KIND", "cuda")], "unfit   cuda");
    assert!(!well && said.contains("`cuda` cannot be used") && said.contains("python -m nobat"), "{said}");
}
