//! How fast a 3 x 224 x 224 image of JSON numbers becomes a tensor, against
//! `serde_json`'s tree and the digits body. Run in release mode.

use nobat_testkit::signatures::{ready, spec};
use std::hint::black_box;
use std::time::Instant;

use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_gateway::rows::{self, Format};

fn main() {
    let image = signature(&[-1, 3, 224, 224]);
    let short = body(3 * 224 * 224, &[3, 224, 224], |n| format!("{:.6}", f64::from(n % 1000) / 999.0));
    let long = body(3 * 224 * 224, &[3, 224, 224], |n| (f64::from(n) * 0.618_033_988_749).fract().to_string());
    report("image, 6 digits", &short, 40, || rows::read(&short, &image, "instances").map(|_| ()).expect("fits"));
    report("image, 17 digits", &long, 40, || rows::read(&long, &image, "instances").map(|_| ()).expect("fits"));
    report("serde_json tree", &short, 5, || drop(serde_json::from_slice::<serde_json::Value>(&short).expect("JSON")));
    let digit = body(64, &[64], |n| format!("{}.0", n % 17));
    let digits = signature(&[-1, 64]);
    report("digit", &digit, 100_000, || rows::read(&digit, &digits, "instances").map(|_| ()).expect("fits"));

    let values: Vec<u8> = (0..1000).flat_map(|n| (n as f32 * 0.618_034).fract().to_le_bytes()).collect();
    let output =
        Tensor { name: "y".into(), datatype: Datatype::Fp32, shape: [1, 1000][..].into(), data: values.into() };
    let mut out = Vec::new();
    rows::answer(&mut out, std::slice::from_ref(&output), Format::Row, None);
    report("print 1000 floats", &out.clone(), 5_000, || {
        out.clear();
        rows::answer(&mut out, std::slice::from_ref(&output), Format::Row, None);
    });
}

fn report(name: &str, text: &[u8], runs: u32, mut run: impl FnMut()) {
    run();
    let start = Instant::now();
    for _ in 0..runs {
        black_box(&mut run)();
    }
    let each = start.elapsed() / runs;
    let speed = text.len() as f64 / each.as_secs_f64() / 1e6;
    println!("{name}: {} bytes in {:.1} us, {speed:.0} MB/s", text.len(), each.as_secs_f64() * 1e6);
}

/// `{"instances":[…]}` with one row of these dimensions.
fn body(count: u32, dims: &[u32], number: impl Fn(u32) -> String) -> Vec<u8> {
    let mut text = String::from("{\"instances\":[");
    for n in 0..count {
        let strides = (0..dims.len()).map(|at| dims[at..].iter().product::<u32>());
        text.extend(strides.clone().filter(|stride| n % stride == 0).map(|_| '['));
        text += &number(n);
        text.extend(strides.filter(|stride| (n + 1) % stride == 0).map(|_| ']'));
        if n + 1 < count {
            text.push(',');
        }
    }
    (text + "]}").into_bytes()
}

fn signature(shape: &[i64]) -> ModelSignature {
    ModelSignature { max_rows: 8, ..ready("image", vec![spec("x", Datatype::Fp32, shape)], vec![]) }
}
