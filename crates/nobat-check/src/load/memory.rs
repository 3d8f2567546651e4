//! Whether a server's memory grows with its requests.
//!
//! Read after every run: equal rounds of equal load. What a server takes once, and what an
//! allocator keeps, levels off; a leak does not.

use nobat_statistics::runs::trend;

use super::words::size;
use crate::stage::{AxisScale, Chart, Finding, Verdict};
use crate::statistical::words::count;

/// How sure a rise must be.
const LEVEL: f64 = 0.99;
/// A rise over all runs that is too small to tell from an allocator's own.
const SMALLEST: (f64, f64) = (4.0 * 1_048_576.0, 0.02);
/// Readings without which nothing is said.
const READINGS: usize = 5;

/// The memory of its own that a process of this machine has resident, in bytes; pages of files
/// are not among it, which the kernel takes back at need.
pub fn resident_bytes(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The process of this machine that listens on a port, where that can be found out.
pub fn listening_process(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listening_inode(line, port))?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|process| {
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        open.map(|entry| std::fs::read_link(entry.path()))
            .any(|link| link.is_ok_and(|link| link.as_os_str() == &*socket))
    })
}

/// The socket of a line of `/proc/net/tcp` that listens on `port`.
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let its = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (its == port && state == "0A").then(|| fields.nth(5))?
}

/// The finding, without words.
pub(super) fn memory_finding(verdict: Verdict) -> Finding {
    Finding::new("memory", "memory does not grow with requests", verdict)
}

/// Judges readings in bytes, the first before the first run and one after each; `requests`
/// were answered in all.
pub(super) fn judge_memory(readings: &[u64], requests: u64) -> Finding {
    let values: Vec<f64> = readings.iter().map(|&bytes| bytes as f64).collect();
    let (Some(rise), [first, .., last]) = (trend(&values, LEVEL).filter(|_| values.len() >= READINGS), &values[..])
    else {
        let verdict = Verdict::needs(format!("{} readings are too few", values.len()), "five runs (--runs 5)");
        return memory_finding(verdict);
    };
    let rounds = values.len() - 1;
    let smallest = SMALLEST.0.max(first * SMALLEST.1);
    let late = last - values[rounds / 2];
    let goes_on = late >= 0.5 * rise.slope * (rounds - rounds / 2) as f64;
    let leaks = rise.low > 0.0 && rise.slope * rounds as f64 >= smallest && goes_on;
    let each = |bytes: f64| bytes / requests.max(1) as f64;
    let found = match leaks {
        true => format!(
            "It grew from {} to {}, run by run: about {} a request.",
            size(*first),
            size(*last),
            size(each(rise.slope * rounds as f64))
        ),
        false => format!("It went from {} to {}.", size(*first), size(*last)),
    };
    let points = values.iter().enumerate().map(|(at, bytes)| (at as f64, bytes / 1_048_576.0)).collect();
    let chart = Chart::Lines {
        x: "runs".into(),
        y: "MiB".into(),
        lines: vec![("resident".into(), points)],
        scale: AxisScale::Linear,
        limit: None,
    };
    memory_finding(Verdict::of(!leaks))
        .say(format!("The server's resident memory was read before and after each of {rounds} runs."))
        .say(found)
        .say(format!(
            "Over {} requests a leak of less than about {} a request would not be seen.",
            count(requests),
            size(each(smallest))
        ))
        .figure("first_bytes", readings[0])
        .figure("last_bytes", readings[rounds])
        .figure("rise_bytes_per_run", rise.slope)
        .figure("rise_at_least_bytes_per_run", rise.low)
        .chart(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1_048_576;

    fn verdict(mib: &[u64]) -> Verdict {
        judge_memory(&mib.iter().map(|mib| mib * MIB).collect::<Vec<_>>(), 5_000).verdict
    }

    #[test]
    fn a_steady_rise_is_a_leak_and_one_that_levels_off_is_none() {
        assert_eq!(verdict(&[60, 64, 68, 72, 76, 80]), Verdict::Failed);
        assert_eq!(verdict(&[60, 63, 69, 71, 77, 80]), Verdict::Failed);
        assert_eq!(verdict(&[60, 74, 79, 80, 80, 80]), Verdict::Passed);
        assert_eq!(verdict(&[60, 61, 60, 62, 59, 61]), Verdict::Passed);
        assert_eq!(verdict(&[80, 60, 61, 60, 60, 60]), Verdict::Passed);
        let slow: Vec<u64> = (0..6).map(|run| 60 * MIB + run * 4_096).collect();
        assert_eq!(judge_memory(&slow, 5_000).verdict, Verdict::Passed, "five pages are no leak");
        assert!(!judge_memory(&[MIB; 3], 10).verdict.is_judged());
        let told = judge_memory(&[60 * MIB, 64 * MIB, 68 * MIB, 72 * MIB, 76 * MIB, 80 * MIB], 5_120);
        assert!(told.words[1].contains("about 4.0 KiB a request"), "{told:?}");
        assert!(told.words[2].contains("less than about 819 bytes"), "{told:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_behind_a_port_is_found_and_its_memory_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(listening_process(port), Some(std::process::id()));
        assert!(resident_bytes(std::process::id()).expect("a reading") > 100 * 1024);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
