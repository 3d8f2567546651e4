//! The segments that carriers append answers to, a pair each, and their joining.
//!
//! A carrier that was killed may have left half a line, and one that was stopped may go
//! on later: what counts of an earlier pair is measured once, in whole lines, by who
//! takes over.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use super::record::{Batch, Measured};
use crate::files::contents::{Contents, Draft, Segment};

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
    contents: Arc<dyn Contents>,
    id: String,
}

impl Segments {
    pub(crate) fn of(contents: &Arc<dyn Contents>, id: &str) -> Segments {
        Segments { contents: Arc::clone(contents), id: id.to_owned() }
    }

    fn name(&self, carrier: u32, kind: Kind) -> String {
        format!("{}.{carrier}.{}", self.id, kind.name())
    }

    /// The id of the file that all of one kind becomes: one, whoever puts it together.
    pub(crate) fn file_id(&self, kind: Kind) -> String {
        format!("{}-{}", self.id.replacen("batch_", "file-", 1), kind.name())
    }

    /// What that is called until it is whole, by one carrier.
    fn joined_name(&self, carrier: u32, kind: Kind) -> String {
        format!("{}.joined", self.name(carrier, kind))
    }

    /// What counts of a carrier's pair.
    pub(crate) fn measure(&self, carrier: u32) -> io::Result<Measured> {
        Ok(Measured {
            output: self.contents.measure_segment(&self.name(carrier, Kind::Output))?,
            errors: self.contents.measure_segment(&self.name(carrier, Kind::Errors))?,
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

    /// What counts of one segment.
    fn counted(&self, carrier: u32, kind: Kind, measured: &Measured) -> io::Result<Option<Box<dyn Read + Send>>> {
        match kind.of(measured) {
            0 => Ok(None),
            bytes => self.contents.read_segment(&self.name(carrier, kind), bytes).map(Some),
        }
    }

    /// Begins the present carrier's pair.
    pub(crate) fn begin(&self, carrier: u32) -> io::Result<Pair> {
        let begin = |kind| self.contents.begin_segment(&self.name(carrier, kind));
        Ok(Pair { output: begin(Kind::Output)?, errors: begin(Kind::Errors)? })
    }

    /// Puts all of one kind together, to be kept as [`Segments::file_id`]; `None` when there is
    /// nothing of it.
    pub(crate) fn join(&self, batch: &Batch, kind: Kind) -> io::Result<Option<Box<dyn Draft>>> {
        let own = self.measure(batch.carriers)?;
        let all: Vec<&Measured> = batch.measured.iter().chain([&own]).collect();
        if all.iter().all(|measured| kind.of(measured) == 0) {
            return Ok(None);
        }
        let mut joined = self.contents.create(&self.file_id(kind), &self.joined_name(batch.carriers, kind))?;
        for (at, measured) in all.into_iter().enumerate() {
            if let Some(mut part) = self.counted(at as u32 + 1, kind, measured)? {
                let copied = io::copy(&mut part, &mut joined)?;
                if copied != kind.of(measured) {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "answers that were counted are gone"));
                }
            }
        }
        Ok(Some(joined))
    }

    /// Deletes every carrier's pair, as far as it goes: the rest is swept.
    pub(crate) fn delete(&self, carriers: u32) {
        for carrier in 1..=carriers {
            for kind in Kind::BOTH {
                let _ = self.contents.remove(&self.name(carrier, kind));
                let _ = self.contents.remove(&self.joined_name(carrier, kind));
            }
        }
    }
}

/// One carrier's segments.
pub(crate) struct Pair {
    output: Box<dyn Segment>,
    errors: Box<dyn Segment>,
}

impl Pair {
    /// Appends whole lines.
    pub(crate) fn append(&mut self, output: &[u8], errors: &[u8]) -> io::Result<()> {
        for (segment, lines) in [(&mut self.output, output), (&mut self.errors, errors)] {
            if !lines.is_empty() {
                segment.append(lines)?;
            }
        }
        Ok(())
    }

    /// Has the disk keep what was appended.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.output.sync()?;
        self.errors.sync()
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
    use object_store::memory::InMemory;

    use super::*;
    use crate::files::bucket::Bucket;
    use crate::files::folder::Folder;

    fn line(number: u64, text: &str) -> String {
        format!("{{\"id\":\"{LINE_ID}{number}\",\"text\":\"{text}\"}}\n")
    }

    fn read(contents: &Arc<dyn Contents>, name: &str) -> String {
        let mut text = String::new();
        contents.open(name).expect("it is there").reader.read_to_string(&mut text).expect("read");
        text
    }

    fn batch(carriers: u32, measured: &[Measured]) -> Batch {
        serde_json::from_value(serde_json::json!({
            "id": "batch_1", "owner": 0, "caller": null, "endpoint": "", "input_file_id": "", "completion_window": "1h",
            "status": "in_progress", "counts": {"total": 4, "completed": 0, "failed": 0}, "errors": [], "created_at": 0,
            "expires_at": 0, "metadata": {}, "carriers": carriers, "measured": measured,
        }))
        .expect("a record")
    }

    /// A first carrier's answers, what it writes after it was measured, and a second one's: what becomes of them.
    fn two_carriers(contents: Arc<dyn Contents>, half: &str) {
        let segments = Segments::of(&contents, "batch_1");
        let mut first = segments.begin(1).expect("begun");
        let long = line(0, "a") + &line(7, &"long ".repeat(100_000));
        first.append(long.as_bytes(), line(5, "bad").as_bytes()).expect("written");
        first.append(format!("{}{half}", line(2, "b")).as_bytes(), b"").expect("written");
        let whole = long + &line(2, "b");
        let measured = segments.measure(1).expect("measured");
        assert_eq!(measured, Measured { output: whole.len() as u64, errors: line(5, "bad").len() as u64 });
        first.append(line(3, "too late").as_bytes(), line(4, "too late").as_bytes()).expect("written");
        let batch = batch(2, &[measured]);
        let mut seen = Vec::new();
        segments.lines(&batch, |kind, number| seen.push((kind, number))).expect("read");
        assert_eq!(seen, [(Kind::Output, 0), (Kind::Output, 7), (Kind::Output, 2), (Kind::Errors, 5)]);
        let mut second = segments.begin(2).expect("begun");
        second.append(line(3, "in time").as_bytes(), b"").expect("written");
        let joined = segments.join(&batch, Kind::Output).expect("joined").expect("there is something");
        assert!(contents.open("file-1-output").is_err(), "not before it is kept");
        joined.finish().expect("kept");
        assert_eq!(read(&contents, "file-1-output"), whole + &line(3, "in time"));
        drop(segments.join(&batch, Kind::Errors).expect("joined").expect("there is something"));
        segments.delete(2);
        assert_eq!(
            contents.used().expect("looked"),
            read(&contents, "file-1-output").len() as u64,
            "nothing else is left"
        );
    }

    #[test]
    fn what_a_killed_or_stopped_carrier_leaves_in_a_folder_counts_in_whole_lines_and_once() {
        let folder = tempfile::tempdir().expect("a folder");
        two_carriers(Arc::new(Folder::open(folder.path().join("files")).expect("a folder")), &line(3, "half")[..9]);
    }

    #[test]
    fn what_a_stopped_carrier_leaves_in_a_bucket_counts_once() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), "a/prefix".into(), "s3://test").expect("a bucket");
        two_carriers(Arc::new(bucket), "");
    }
}
