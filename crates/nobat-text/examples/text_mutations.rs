//! Mutated texts and folders through the fuzz targets' entries, without the fuzzer:
//! `text_mutations [SECONDS [SEED]]`, for so long each.
//!
//! Takes the fuzzers' corpus, and what of its mutations was new: bytes changed, cut, doubled and joined from
//! two files. What falls is printed before it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A target and its entry.
const TARGETS: [(&str, fn(&[u8])); 2] =
    [("text", nobat_text::fuzz::text), ("text_folder", nobat_text::fuzz::text_folder)];
const LONGEST: Duration = Duration::from_secs(1);
/// Bytes of a mutation at the most.
const MOST: usize = 4096;
/// Mutations that are mutated again.
const KEPT: usize = 4096;
/// What parsers look for.
const WORDS: [&str; 28] = [
    "\0",
    "[",
    "]",
    "{",
    "}",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.5",
    "\\u0000",
    "\\ud800",
    "[MASK]",
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[UNK]",
    "##",
    "\u{200d}",
    "\u{301}",
    "👩‍👩‍👧",
    "ﷺ",
    "中",
    "İ",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (seconds, seed) = (number(60), number(1));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut fell = 0;
    for (name, target) in TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).expect("a corpus").flatten();
        let mut kept: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.path()).expect("a file")).collect();
        kept.sort();
        let (mut random, mut count, mut slowest, began) = (Random(seed | 1), 0u64, Duration::ZERO, Instant::now());
        while began.elapsed() < Duration::from_secs(seconds) {
            let mutated = mutated(&kept, &mut random);
            let started = Instant::now();
            let survived = catch_unwind(AssertUnwindSafe(|| target(&mutated))).is_ok();
            slowest = slowest.max(started.elapsed());
            count += 1;
            if !survived {
                println!("{name} falls over {:?}", String::from_utf8_lossy(&mutated));
                fell += 1;
            } else if random.below(16) == 0 {
                match kept.len() < KEPT {
                    true => kept.push(mutated),
                    false => kept[random.below(KEPT)] = mutated,
                }
            }
        }
        println!("{name}: {count} mutations, {fell} fell, the slowest took {:.1} ms", slowest.as_secs_f64() * 1e3);
        fell += usize::from(slowest > LONGEST);
    }
    ExitCode::from(u8::from(fell > 0))
}

/// One of `kept`, with one to eight changes.
fn mutated(kept: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = kept[random.below(kept.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(64) + 1);
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            3 => {
                let other = &kept[random.below(kept.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].bytes())),
            // Any letter there is: bytes alone are seldom a text.
            5 => {
                let letter = char::from_u32(random.below(0x11_0000) as u32).unwrap_or('\u{fffd}');
                bytes.splice(at..end, letter.to_string().into_bytes());
            }
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        }
    }
    bytes.truncate(MOST);
    bytes
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}
