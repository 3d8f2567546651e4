//! How fast, and how exactly, five readers turn the bodies of predictions into
//! tensors: nobat's own, jiter, and one serde visitor over serde_json, sonic-rs and
//! simd-json. Prints a table of microseconds, then what each does to bad input.

mod jiter_reader;
mod own_reader;
mod serde_reader;

use std::hint::black_box;
use std::time::{Duration, Instant};

/// What a body of rows becomes: FP32 values and their shape.
#[derive(Debug, Default, PartialEq)]
pub struct Numbers {
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// What a body of records becomes.
#[derive(Debug, Default, PartialEq)]
pub struct Records {
    pub ages: Vec<u8>,
    pub texts: Vec<u8>,
}

type Read<T> = fn(&[u8]) -> Result<T, String>;

const NUMBERS: [(&str, Read<Numbers>); 5] = [
    ("own", own_reader::numbers),
    ("jiter", jiter_reader::numbers),
    ("serde_json", |text| serde_reader::numbers(&mut serde_json::Deserializer::from_slice(text))),
    ("sonic-rs", |text| serde_reader::numbers(&mut sonic_rs::Deserializer::from_slice(text))),
    ("simd-json", |text| {
        let mut copy = text.to_vec();
        serde_reader::numbers(&mut simd_json::Deserializer::from_slice(&mut copy).map_err(|error| error.to_string())?)
    }),
];

const RECORDS: [(&str, Read<Records>); 5] = [
    ("own", own_reader::records),
    ("jiter", jiter_reader::records),
    ("serde_json", |text| serde_reader::records(&mut serde_json::Deserializer::from_slice(text))),
    ("sonic-rs", |text| serde_reader::records(&mut sonic_rs::Deserializer::from_slice(text))),
    ("simd-json", |text| {
        let mut copy = text.to_vec();
        serde_reader::records(&mut simd_json::Deserializer::from_slice(&mut copy).map_err(|error| error.to_string())?)
    }),
];

fn main() {
    let image = |number: fn(usize) -> String| nested(&[1, 3, 224, 224], number);
    let bodies = [
        ("digits, 1 x 64", nested(&[1, 64], |n| format!("{}.0", n % 17)), 500_000),
        ("image, 6 digits", image(|n| format!("{:.6}", (n % 1000) as f64 / 999.0)), 100),
        ("image, shortest floats", image(|n| ((n as f32) * 0.618_034).fract().to_string()), 100),
        ("image, 17 digits", image(|n| ((n as f64) * 0.618_033_988_749).fract().to_string()), 100),
    ];
    println!("| body | bytes | {} |", NUMBERS.map(|(name, _)| name).join(" | "));
    println!("|---|---|---|---|---|---|---|");
    for (name, body, runs) in &bodies {
        let right = own_reader::numbers(body).expect("well formed");
        let timed = fastest(NUMBERS.map(|(_, read)| move || drop(black_box(read(black_box(body))))), *runs);
        let cells = NUMBERS.iter().zip(timed).map(|((_, read), took)| {
            let found = read(body).expect("well formed");
            assert_eq!(found.shape, right.shape);
            match differing(&found.data, &right.data) {
                0 => micros(took),
                other => format!("{} ({other} values off)", micros(took)),
            }
        });
        println!("| {name} | {} | {} |", body.len(), cells.collect::<Vec<_>>().join(" | "));
    }
    for (name, note) in [("100 records", "à la carte"), ("100 records, escapes", "a \\\"note\\\"\\nwith \\u00e9")] {
        let row = |n: usize| format!("{{\"age\": {}, \"city\": \"Paris {n}\", \"note\": \"{note}\"}}", n % 100);
        let body = format!("{{\"instances\": [{}]}}", (0..100).map(row).collect::<Vec<_>>().join(", ")).into_bytes();
        let right = own_reader::records(&body).expect("well formed");
        let timed = fastest(
            RECORDS.map(|(_, read)| {
                let body = &body;
                move || drop(black_box(read(black_box(body))))
            }),
            50_000,
        );
        RECORDS.iter().for_each(|(_, read)| assert_eq!(read(&body).as_ref(), Ok(&right)));
        println!("| {name} | {} | {} |", body.len(), timed.map(micros).join(" | "));
    }
    println!();
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    for (name, text) in [
        ("nested 100,000 deep", format!("{{\"instances\": {deep}}}")),
        ("a million digits", format!("{{\"instances\": [{}]}}", "9".repeat(1_000_000))),
        ("1e400", "{\"instances\": [1e400]}".to_owned()),
        ("1e39 for a single", "{\"instances\": [1e39]}".to_owned()),
        ("16777217.0000001", "{\"instances\": [16777217.0000001]}".to_owned()),
        ("NaN", "{\"instances\": [1, NaN]}".to_owned()),
        ("the member twice", "{\"instances\": [1], \"instances\": [2]}".to_owned()),
        ("ragged", "{\"instances\": [[1, 2], [3]]}".to_owned()),
        ("a text", "{\"instances\": [[1, \"a\"]]}".to_owned()),
        ("a comma too many", "{\"instances\": [1,]}".to_owned()),
    ] {
        println!("{name}");
        for (reader, read) in NUMBERS {
            // A reader that recurses must not take the others with it.
            let text = text.clone();
            let start = Instant::now();
            let run = std::thread::Builder::new().stack_size(2 << 20).spawn(move || read(text.as_bytes()));
            let outcome = match run.expect("a thread").join() {
                Ok(Ok(numbers)) => format!("takes {:?} {:?}", numbers.shape, floats(&numbers.data)),
                Ok(Err(error)) => error.chars().take(110).collect(),
                Err(_) => "panics".to_owned(),
            };
            println!("  {reader:10} {:>7} us  {outcome}", start.elapsed().as_micros());
        }
    }
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn differing(found: &[u8], right: &[u8]) -> usize {
    found.as_chunks::<4>().0.iter().zip(right.as_chunks::<4>().0).filter(|(found, right)| found != right).count()
}

fn micros(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64() * 1e6)
}

/// The best of ten rounds of each, the readers taking turns; time on the processor, so
/// that a busy machine does not count.
fn fastest<const N: usize>(mut runs: [impl FnMut(); N], times: u32) -> [Duration; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..10 {
        for (run, best) in runs.iter_mut().zip(&mut best) {
            let start = on_processor();
            (0..times.div_ceil(10)).for_each(|_| run());
            *best = (*best).min((on_processor() - start) / times.div_ceil(10));
        }
    }
    best
}

fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

/// `{"instances": …}` with lists of these lengths.
fn nested(dims: &[usize], number: impl Fn(usize) -> String) -> Vec<u8> {
    let count: usize = dims.iter().product();
    let mut text = String::from("{\"instances\":");
    for n in 0..count {
        let strides = (0..dims.len()).map(|at| dims[at..].iter().product::<usize>());
        text.extend(strides.clone().filter(|stride| n % stride == 0).map(|_| '['));
        text += &number(n);
        text.extend(strides.filter(|stride| (n + 1) % stride == 0).map(|_| ']'));
        if n + 1 < count {
            text.push(',');
        }
    }
    (text + "}").into_bytes()
}
