//! The files that carriers append answers to, a pair each, and their joining.
//!
//! A carrier that was killed may have left half a line, and one that was stopped may go
//! on later: what counts of an earlier pair is measured once, in whole lines, by who
//! takes over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use super::record::{Batch, Measured};
use crate::files::store::Files;

/// Begins every line that is written; the number of the input's line follows, from 0.
pub(crate) const LINE_ID: &str = "batch_req_";
const HEAD: &str = "{\"id\":\"batch_req_";

/// Which of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Output,
    Errors,
}

impl Kind {
    pub(crate) const BOTH: [Kind; 2] = [Kind::Output, Kind::Errors];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Output => "output",
            Kind::Errors => "errors",
        }
    }

    fn of(self, measured: &Measured) -> u64 {
        match self {
            Kind::Output => measured.output,
            Kind::Errors => measured.errors,
        }
    }
}

/// Where the answers of a batch's carriers are.
#[derive(Clone)]
pub(crate) struct Segments {
    files: Files,
    id: String,
}

impl Segments {
    pub(crate) fn of(files: &Files, id: &str) -> Segments {
        Segments { files: files.clone(), id: id.to_owned() }
    }

    fn path(&self, carrier: u32, kind: Kind) -> PathBuf {
        self.files.scratch(&format!("{}.{carrier}.{}", self.id, kind.name()))
    }

    /// Where the whole of one kind is put together by a carrier.
    pub(crate) fn joined_path(&self, carrier: u32, kind: Kind) -> PathBuf {
        self.files.scratch(&format!("{}.{carrier}.{}.joined", self.id, kind.name()))
    }

    /// What counts of a carrier's pair.
    pub(crate) fn measure(&self, carrier: u32) -> io::Result<Measured> {
        Ok(Measured {
            output: whole_lines(&self.path(carrier, Kind::Output))?,
            errors: whole_lines(&self.path(carrier, Kind::Errors))?,
        })
    }

    /// Calls `seen` with the number of every line that earlier carriers have written.
    pub(crate) fn lines(&self, batch: &Batch, mut seen: impl FnMut(Kind, u64)) -> io::Result<()> {
        for (at, measured) in batch.measured.iter().enumerate() {
            for kind in Kind::BOTH {
                let Some(reader) = self.counted(at as u32 + 1, kind, measured)? else { continue };
                let mut reader = BufReader::with_capacity(256 << 10, reader);
                let mut head = Vec::new();
                while !reader.fill_buf()?.is_empty() {
                    head.clear();
                    (&mut reader).take(HEAD.len() as u64 + 24).read_until(b'\n', &mut head)?;
                    if let Some(number) = number_of(&head) {
                        seen(kind, number);
                    }
                    if head.last() != Some(&b'\n') {
                        reader.skip_until(b'\n')?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What counts of one file.
    fn counted(&self, carrier: u32, kind: Kind, measured: &Measured) -> io::Result<Option<io::Take<File>>> {
        match kind.of(measured) {
            0 => Ok(None),
            bytes => Ok(Some(File::open(self.path(carrier, kind))?.take(bytes))),
        }
    }

    /// Opens the present carrier's pair for appending.
    pub(crate) fn open(&self, carrier: u32) -> io::Result<Pair> {
        let open = |kind| OpenOptions::new().create(true).append(true).open(self.path(carrier, kind));
        Ok(Pair { output: open(Kind::Output)?, errors: open(Kind::Errors)? })
    }

    /// Puts all of one kind together, synced; `None` when there is nothing of it.
    pub(crate) fn join(&self, batch: &Batch, kind: Kind) -> io::Result<Option<PathBuf>> {
        let path = self.joined_path(batch.carriers, kind);
        let mut joined = File::create(&path)?;
        let mut bytes = 0;
        let own = self.measure(batch.carriers)?;
        for (at, measured) in batch.measured.iter().chain([&own]).enumerate() {
            if let Some(mut part) = self.counted(at as u32 + 1, kind, measured)? {
                let copied = io::copy(&mut part, &mut joined)?;
                if copied != kind.of(measured) {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "answers that were counted are gone"));
                }
                bytes += copied;
            }
        }
        joined.sync_all()?;
        if bytes > 0 {
            return Ok(Some(path));
        }
        fs::remove_file(path)?;
        Ok(None)
    }

    /// Deletes every carrier's pair.
    pub(crate) fn delete(&self, carriers: u32) {
        for carrier in 1..=carriers {
            for kind in Kind::BOTH {
                let _ = fs::remove_file(self.path(carrier, kind));
                let _ = fs::remove_file(self.joined_path(carrier, kind));
            }
        }
    }
}

/// One carrier's files.
pub(crate) struct Pair {
    output: File,
    errors: File,
}

impl Pair {
    /// Appends whole lines.
    pub(crate) fn append(&mut self, output: &[u8], errors: &[u8]) -> io::Result<()> {
        self.output.write_all(output)?;
        self.errors.write_all(errors)
    }

    /// Has the disk keep what was appended.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.output.sync_all()?;
        self.errors.sync_all()
    }
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(path: &PathBuf) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let (mut at, mut whole) = (0, 0);
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            // What counts from now on outlives the machine, not only the process.
            reader.get_ref().sync_all()?;
            return Ok(whole);
        }
        if let Some(end) = piece.iter().rposition(|&byte| byte == b'\n') {
            whole = at + end as u64 + 1;
        }
        let read = piece.len();
        at += read as u64;
        reader.consume(read);
    }
}

/// The number of the line whose answer begins so.
fn number_of(head: &[u8]) -> Option<u64> {
    let digits = head.strip_prefix(HEAD.as_bytes())?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::FileSettings;
    use nobat_queue::sqlite::SqliteQueue;
    use nobat_queue::{Queue, QueueSettings};

    fn line(number: u64, text: &str) -> String {
        format!("{{\"id\":\"{LINE_ID}{number}\",\"text\":\"{text}\"}}\n")
    }

    #[tokio::test]
    async fn what_a_killed_or_stopped_carrier_leaves_counts_in_whole_lines_and_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        let files = Files::open(queue.metadata(), FileSettings::default(), dir.path().join("files")).expect("a folder");
        let segments = Segments::of(&files, "batch_1");
        // The first is killed inside a line, and was only stopped: it goes on later.
        let mut first = segments.open(1).expect("opens");
        let whole = line(0, "a") + &line(7, &"long ".repeat(100_000));
        first
            .append(format!("{whole}{}", &line(3, "half")[..9]).as_bytes(), line(5, "bad").as_bytes())
            .expect("written");
        let measured = segments.measure(1).expect("measured");
        assert_eq!(measured, Measured { output: whole.len() as u64, errors: line(5, "bad").len() as u64 });
        first.append(line(3, "too late").as_bytes(), b"").expect("written");
        let batch: Batch = serde_json::from_value(serde_json::json!({
            "id": "batch_1", "owner": 0, "caller": null, "endpoint": "", "input_file_id": "", "completion_window": "1h",
            "status": "in_progress", "counts": {"total": 4, "completed": 0, "failed": 0}, "errors": [], "created_at": 0,
            "expires_at": 0, "metadata": {}, "carriers": 2, "measured": [measured],
        }))
        .expect("a record");
        let mut seen = Vec::new();
        segments.lines(&batch, |kind, number| seen.push((kind, number))).expect("read");
        assert_eq!(seen, [(Kind::Output, 0), (Kind::Output, 7), (Kind::Errors, 5)]);
        let mut second = segments.open(2).expect("opens");
        second.append(line(3, "in time").as_bytes(), b"").expect("written");
        let joined = segments.join(&batch, Kind::Output).expect("joined").expect("there is something");
        assert_eq!(fs::read_to_string(joined).expect("read"), whole + &line(3, "in time"));
        segments.delete(2);
        assert_eq!(fs::read_dir(dir.path().join("files")).expect("a folder").count(), 0);
    }
}
