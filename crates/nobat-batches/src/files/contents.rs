//! What files are made of, wherever they are kept: a folder, or a bucket. Names are ids of
//! files, and of what belongs to a batch.
//!
//! Every call may wait for a disk or a network: make them inside [`blocking`].

use std::io::{self, Read, Write};
use std::time::Duration;

use nobat_core::{Error, Result};

/// A place that keeps files.
pub(crate) trait Contents: Send + Sync {
    /// Begins the file `name`, which is there once it is finished, whole. Until then a folder
    /// has it as `meanwhile`, which nobody else writes.
    fn create(&self, name: &str, meanwhile: &str) -> io::Result<Box<dyn Draft>>;

    /// A file; `NotFound` where it is not there.
    fn open(&self, name: &str) -> io::Result<FileContents>;

    /// Begins the segment `name`: what is written bit by bit and counts as far as it came. One
    /// process writes it, once.
    fn begin_segment(&self, name: &str) -> io::Result<Box<dyn Segment>>;

    /// Bytes of whole lines of a segment that outlive the machine; 0 where there is none.
    fn measure_segment(&self, name: &str) -> io::Result<u64>;

    /// The first `bytes` of a segment, as it was measured.
    fn read_segment(&self, name: &str, bytes: u64) -> io::Result<Box<dyn Read + Send>>;

    /// Deletes a file, or a segment; fine where it is not there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Bytes of all that is kept, with what this process writes now.
    fn used(&self) -> io::Result<u64>;

    /// Names of files and segments that nobody has written to for `age`.
    fn older_than(&self, age: Duration) -> io::Result<Vec<String>>;

    /// How often segments are written to at the most, when there is little to write.
    fn pace(&self) -> Duration;
}

/// A file on its way in. Dropped before it is finished, it leaves nothing.
pub(crate) trait Draft: Write + Send {
    /// Keeps the file under its name, in place of any other; its size.
    fn finish(self: Box<Self>) -> io::Result<u64>;
}

/// The end of a segment.
pub(crate) trait Segment: Send {
    /// Appends whole lines, at least one.
    fn append(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Has the disk keep what was appended.
    fn sync(&self) -> io::Result<()>;
}

/// What is in a file, read from its beginning.
pub struct FileContents {
    /// Its size.
    pub bytes: u64,
    /// Its bytes. A read may wait for a disk or a network.
    pub reader: Box<dyn Read + Send>,
}

/// Whether a name is one that is given here.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with("file-") || name.starts_with("batch_")
}

/// Work on files, on a thread that may wait for a disk or a network.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("files cannot be kept or read: {error}"));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
