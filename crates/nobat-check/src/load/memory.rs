//! Whether a server's memory grows with its requests.
//!
//! Read after every run: equal rounds of equal load. What a server takes once, and what an
//! allocator keeps, levels off; a leak does not.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::growth::{Growth, LEVEL, chart, too_few};
use super::words::size;
use crate::stage::{Finding, Verdict};
use crate::statistical::words::count;

/// The process that starts all others.
const INIT: u32 = 1;

/// What a server had at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryReading {
    /// Memory of its own that is resident; pages of files are not among it, which the kernel takes
    /// back at need.
    pub(super) bytes: u64,
    /// Processes that it is of.
    pub(super) processes: usize,
}

/// The processes that a server is: those that are named, or that listen, and all that they have
/// started. A server that answers from workers of its own leaks in those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerProcesses {
    roots: BTreeSet<u32>,
}

impl ServerProcesses {
    /// Those of this machine with these numbers; `None` for none.
    pub(super) fn named(roots: &[u32]) -> Option<ServerProcesses> {
        let roots = BTreeSet::from_iter(roots.iter().copied());
        (!roots.is_empty()).then_some(ServerProcesses { roots })
    }

    /// Those of this machine that listen on a port, where that can be found out.
    pub(super) fn listening(port: u16) -> Option<ServerProcesses> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        let tables = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
        let lines = tables.iter().flat_map(|table| table.lines());
        let sockets: Vec<String> =
            lines.filter_map(|line| listening_inode(line, port)).map(|inode| format!("socket:[{inode}]")).collect();
        let has_one = |process: &u32| {
            let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            let mut links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            links.any(|link| sockets.iter().any(|socket| link.as_os_str() == &**socket))
        };
        let mut roots: BTreeSet<u32> = match sockets.is_empty() {
            true => BTreeSet::new(),
            false => processes().filter(has_one).collect(),
        };
        // Where it holds the socket for others, all of the machine is what it started.
        if roots.len() > 1 {
            roots.remove(&INIT);
        }
        (!roots.is_empty()).then_some(ServerProcesses { roots })
    }

    /// Their memory now; `None` where none of them is left.
    pub(super) fn read(&self) -> Option<MemoryReading> {
        let readings: Vec<u64> = self.all().into_iter().filter_map(resident_bytes).collect();
        let reading = MemoryReading { bytes: readings.iter().sum(), processes: readings.len() };
        (reading.processes > 0).then_some(reading)
    }

    fn all(&self) -> BTreeSet<u32> {
        let parents: Vec<(u32, u32)> = processes().filter_map(|process| Some((process, parent(process)?))).collect();
        with_descendants(&self.roots, &parents)
    }

    /// Those that there are now, as workers name theirs: host name and process id.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        self.all().into_iter().map(|process| format!("{}:{process}", host.trim())).collect()
    }

    /// The first that is not there, or whose memory this machine does not tell.
    pub(super) fn absent(&self) -> Option<u32> {
        self.roots.iter().copied().find(|process| resident_bytes(*process).is_none())
    }
}

/// All processes of this machine.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(process: u32) -> Option<u32> {
    number(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?, "PPid:")
}

fn resident_bytes(process: u32) -> Option<u64> {
    let kib: u64 = number(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?, "RssAnon:")?;
    Some(kib * 1024)
}

/// The number of a line of `/proc/PID/status`.
fn number<N: FromStr>(status: &str, key: &str) -> Option<N> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// `roots` and whatever has one of them above it, given each process and its parent.
fn with_descendants(roots: &BTreeSet<u32>, parents: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut all = roots.clone();
    loop {
        let started = parents.iter().filter(|(own, parent)| all.contains(parent) && !all.contains(own));
        let started: Vec<u32> = started.map(|(own, _)| *own).collect();
        if started.is_empty() {
            return all;
        }
        all.extend(started);
    }
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

/// Judges readings, the first before the first run and one after each; `requests` were answered
/// in all.
pub(super) fn judge_memory(readings: &[MemoryReading], requests: u64) -> Finding {
    let values: Vec<f64> = readings.iter().map(|reading| reading.bytes as f64).collect();
    let Some(growth) = Growth::of(&values, LEVEL) else { return memory_finding(too_few(values.len())) };
    let each = |bytes: f64| bytes / requests.max(1) as f64;
    let found = match growth.leaks {
        true => format!(
            "It grew from {} to {}, run by run: about {} a request.",
            size(growth.first),
            size(growth.last),
            size(each(growth.risen()))
        ),
        false => format!("It went from {} to {}.", size(growth.first), size(growth.last)),
    };
    let processes = || readings.iter().map(|reading| reading.processes);
    let (fewest, most) = (processes().min().unwrap_or(0), processes().max().unwrap_or(0));
    let verdict = match growth.leaks && fewest != most {
        // What a new process takes is no leak.
        true => Verdict::needs(
            format!("it grew while its processes went from {fewest} to {most}"),
            "a longer --warm-up, until all of them have started",
        ),
        false => Verdict::of(!growth.leaks),
    };
    let whose = if most == 1 { "its process".into() } else { format!("its {most} processes") };
    memory_finding(verdict)
        .say(format!(
            "The server's resident memory, of {whose}, was read before and after each of {} runs.",
            growth.runs
        ))
        .say(found)
        .say(format!(
            "Over {} requests a leak of less than about {} a request would not be seen.",
            count(requests),
            size(each(growth.smallest))
        ))
        .figure("processes", most)
        .figure("first_bytes", growth.first as u64)
        .figure("last_bytes", growth.last as u64)
        .figure("rise_bytes_per_run", growth.slope)
        .figure("rise_at_least_bytes_per_run", growth.slope_at_least)
        .chart(chart(vec![("resident".into(), (0..).zip(values).collect())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1_048_576;

    fn reading(bytes: u64) -> MemoryReading {
        MemoryReading { bytes, processes: 3 }
    }

    fn judged(mib: &[u64]) -> Finding {
        judge_memory(&mib.iter().map(|mib| reading(mib * MIB)).collect::<Vec<_>>(), 5_120)
    }

    #[test]
    fn a_steady_rise_is_a_leak_and_one_that_levels_off_is_none() {
        let verdict = |mib: &[u64]| judged(mib).verdict;
        assert_eq!(verdict(&[60, 64, 68, 72, 76, 80]), Verdict::Failed);
        assert_eq!(verdict(&[60, 63, 69, 71, 77, 80]), Verdict::Failed);
        assert_eq!(verdict(&[60, 74, 79, 80, 80, 80]), Verdict::Passed);
        assert_eq!(verdict(&[60, 61, 60, 62, 59, 61]), Verdict::Passed);
        assert_eq!(verdict(&[80, 60, 61, 60, 60, 60]), Verdict::Passed);
        let slow: Vec<MemoryReading> = (0..6).map(|run| reading(60 * MIB + run * 4_096)).collect();
        assert_eq!(judge_memory(&slow, 5_000).verdict, Verdict::Passed, "five pages are no leak");
        assert!(!judged(&[1; 3]).verdict.is_judged());
        let told = judged(&[60, 64, 68, 72, 76, 80]);
        assert!(told.words[0].contains("of its 3 processes"), "{told:?}");
        assert!(told.words[1].contains("about 4.0 KiB a request"), "{told:?}");
        assert!(told.words[2].contains("less than about 819 bytes"), "{told:?}");
    }

    #[test]
    fn a_process_that_is_started_meanwhile_is_no_leak() {
        let rising = |run: u64| MemoryReading { bytes: (60 + 4 * run) * MIB, processes: 2 + usize::from(run > 2) };
        let grown = judge_memory(&(0..6).map(rising).collect::<Vec<_>>(), 5_000);
        let Verdict::NotJudged { why, needed: Some(_) } = grown.verdict else { panic!("{grown:?}") };
        assert!(why.contains("its processes went from 2 to 3"), "{why}");
        let steady = |run: u64| MemoryReading { bytes: 60 * MIB, processes: 2 + usize::from(run > 2) };
        assert_eq!(judge_memory(&(0..6).map(steady).collect::<Vec<_>>(), 5_000).verdict, Verdict::Passed);
    }

    #[test]
    fn whatever_a_server_started_is_its_own() {
        let parents = [(9, 7), (1, 0), (5, 1), (7, 5), (8, 1), (6, 9)];
        assert_eq!(with_descendants(&[5].into(), &parents), [5, 6, 7, 9].into());
        assert_eq!(with_descendants(&[8, 7].into(), &parents), [6, 7, 8, 9].into());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_behind_a_port_is_found_and_its_memory_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let own = ServerProcesses::named(&[std::process::id()]).expect("one");
        assert_eq!(ServerProcesses::listening(port), Some(own.clone()));
        assert!(own.read().expect("a reading").bytes > 100 * 1024 && own.absent().is_none());
        let nobody = ServerProcesses::named(&[u32::MAX]).expect("one");
        assert_eq!((nobody.read(), nobody.absent()), (None, Some(u32::MAX)));
        assert_eq!(ServerProcesses::named(&[]), None);
    }
}
