//! Mutated pictures through a model's preparation, each timed: `image_mutations [COUNT [SEED]]`.
//!
//! Takes the fuzzers' corpus and the golden pictures, changes bytes, and prepares each as a served model does, with
//! the bounds that are the default. Ends with 1 where one takes over a second, or the process over a gibibyte.

#[path = "../tests/mutated/mod.rs"]
mod mutated;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutated::{Numbers, mutated};
use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_image::{Graph, ImageModel, ImageSettings, Reading};
use nobat_transform::Transform;

const LONGEST: Duration = Duration::from_secs(1);
const MOST_MEMORY_KIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (count, seed) = (number(10_000), number(1));
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        optional: false,
    };
    let (inputs, outputs) = ([spec("x", &[-1, 3, 224, 224])], [spec("y", &[-1, 10])]);
    let (metadata, operators) = (BTreeMap::new(), BTreeMap::new());
    let graph = Graph { inputs: &inputs, outputs: &outputs, metadata: &metadata, operators: &operators };
    let Ok(Reading::Pictures(model)) = ImageModel::read(None, graph, Some(&ImageSettings::default())) else {
        unreachable!("a classifier of pictures")
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["fuzz/corpus/image", "tests/image_golden"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("a folder").flatten().map(|entry| entry.path());
        files.extend(entries.filter(|path| path.extension().is_none_or(|name| name != "json")));
    }
    files.sort();
    let whole: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("a file")).collect();
    let (mut numbers, mut slowest, mut decoded) = (Numbers(seed), Duration::ZERO, 0);
    let began = Instant::now();
    for at in 0..count as usize {
        let picture = mutated(whole[at % whole.len()].clone(), &mut numbers);
        let mut data = Vec::new();
        put_bytes_element(&mut data, &picture);
        let shape = [1i64];
        let input = Tensor {
            name: "image".into(),
            datatype: Datatype::Bytes,
            shape: shape.as_slice().into(),
            data: data.into(),
        };
        let started = Instant::now();
        match model.prepare(&[Some(input)], &Parameters::default()) {
            Ok(_) => decoded += 1,
            Err(error) => assert!(error.message.starts_with("element 0 of input `image` "), "{}", error.message),
        }
        let took = started.elapsed();
        if took > LONGEST {
            println!("{} mutated takes {took:?}", files[at % files.len()].display());
        }
        slowest = slowest.max(took);
    }
    let memory = most_memory_kib();
    println!(
        "{count} mutations of {} files in {:.1} s: {decoded} decoded, {} refused, none panicked; the slowest took {:.1} ms, \
         the process had at most {} MiB",
        files.len(),
        began.elapsed().as_secs_f64(),
        count - decoded,
        slowest.as_secs_f64() * 1e3,
        memory / 1024
    );
    ExitCode::from(u8::from(slowest > LONGEST || memory > MOST_MEMORY_KIB))
}

/// The most memory that this process had resident; 0 where the system does not say.
fn most_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
