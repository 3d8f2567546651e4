//! `nobat bench` against a real service.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::rig::process::{Service, binary, free_port, root};

fn bench(folder: &Path, url: &str, arguments: &[&str]) -> (Output, String, String) {
    let mut command = Command::new(binary("nobat"));
    command.arg("bench").args(arguments).args(["--url", url]).current_dir(folder);
    let done = command.stdin(Stdio::null()).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&done.stdout), text(&done.stderr));
    (done, out, errors)
}

#[test]
fn a_service_is_measured_over_every_protocol_and_held_to_what_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let grpc = format!("127.0.0.1:{}", free_port());
    let mut service = Service::serve(folder.path(), &root().join("models"), &["--grpc", &grpc], &[]);
    service.wait_for_model("digits");
    let url = format!("http://{}", service.address);
    let example = root().join("models/digits/example.json").display().to_string();
    let bench = |arguments: &[&str]| bench(folder.path(), &url, arguments);
    let short = ["--warm-up", "0.2", "--duration", "1"];

    // Users, with a file that is sent as it is.
    let users = ["digits", "--input", &example, "--users", "4"];
    let (done, out, errors) = bench(&[&users[..], &short].concat());
    assert!(done.status.success(), "{errors}");
    let line =
        |name: &str| out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {out}"));
    assert!(line("load").contains("4 users without pause, 5 runs of 0.2 s"), "{out}");
    let rate: f64 = line("requests/s")["requests/s".len()..].trim().parse().expect("a number");
    assert!(rate > 10.0 && line("failed").ends_with(" 0"), "{out}");
    assert!(line("latency ms").contains("p99") && line("server ms").contains("queue"), "{out}");

    // Arrivals, listed one by one; the made-up inputs of every protocol.
    let open = ["digits", "--rate", "40", "--evenly", "--samples", "samples.csv", "--deadline", "5000"];
    let (done, out, errors) = bench(&[&open[..], &short].concat());
    assert!(
        done.status.success() && out.contains("arrivals/s      40\n") && out.contains("in time/s"),
        "{out}{errors}"
    );
    let samples = std::fs::read_to_string(folder.path().join("samples.csv")).expect("samples");
    assert!(samples.lines().count() == 41 && samples.lines().skip(1).all(|line| line.ends_with(",200")), "{samples}");
    for protocol in ["tfserving", "native", "v2", "v2-binary", "grpc", "job"] {
        let address = format!("http://{grpc}");
        let over = ["digits", "--protocol", protocol, "--grpc", &address, "--trace", "samples.csv", "--json"];
        let (_, out, errors) = bench(&[&over[..], &["--warm-up", "0.2"]].concat());
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{protocol}: {out}{errors}"));
        let answers =
            report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == "answers");
        let answers = answers.expect("answers");
        assert_eq!(
            (&answers["verdict"], &answers["figures"]["due"]),
            (&"passed".into(), &40.into()),
            "{protocol}: {answers}"
        );
    }

    // A baseline is written, added to, and compared with.
    let kept = [&["digits", "--rate", "60", "--save-baseline", "before.json"][..], &short].concat();
    for sessions in 1..=2 {
        let (done, _, errors) = bench(&kept);
        assert!(done.status.success(), "{errors}");
        let baseline = std::fs::read(folder.path().join("before.json")).expect("a baseline");
        let baseline: Value = serde_json::from_slice(&baseline).expect("JSON");
        assert_eq!(baseline["sessions"].as_array().map(Vec::len), Some(sessions), "{baseline}");
    }
    let (_, out, errors) =
        bench(&[&["digits", "--rate", "60", "--baseline", "before.json", "--change", "20"][..], &short].concat());
    // On a busy machine it may not be judged: it is no twenty times slower all the same.
    let is_held = out.contains("p99 is at most 2000.0 % worse than the baseline") && !out.contains("failed: p99");
    assert!(is_held, "{out}{errors}");

    for (arguments, why) in [
        (&["nobody"][..], "nobody"),
        (&["nobody", "--input", &example], "nobody"),
        (&["digits", "--input", "none.json"], "none.json"),
        (&["digits", "--input", &example, "--protocol", "grpc"], "--data"),
        (&["digits", "--rate", "70", "--baseline", "before.json"], "another load: `60 requests a second at random`"),
        (&["digits", "--samples", "/nowhere/samples.csv"], "cannot write `/nowhere/samples.csv`"),
        (&["digits", "--rate", "-3"], "-3 is no rate"),
        (&["digits", "--deadline", "0"], "--deadline 0 cannot be"),
    ] {
        let (done, _, errors) = bench(arguments);
        assert!(!done.status.success() && errors.contains(why), "{arguments:?}: {errors}");
    }
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let (done, _, errors) = self::bench(folder.path(), &nowhere, &["digits"]);
    assert!(!done.status.success() && errors.contains("is it running?"), "{errors}");
}
