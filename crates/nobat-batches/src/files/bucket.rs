//! Files in a bucket: a file is an object, a segment is a series of them, whole lines each, in
//! the order of their numbers.
//!
//! An object is there whole or not at all, so a file is uploaded under its own name, in parts of a few
//! megabytes. Nothing can be appended to one: that is why a segment is many. What a
//! process that was stopped writes later comes after what was measured, as in a folder.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::bucket_requests::{BucketRequests, number};
use super::contents::{Contents, Draft, FileContents, Segment, is_ours};
use crate::random_id::random_id;

/// A part of an upload, the least that S3 takes; so much of a file is in memory.
const PART: usize = 5 << 20;
/// Bytes that are read at once. A reader may take its time between two: no connection waits with it.
const PIECE: u64 = 1 << 20;
/// How often segments are written to at the most: each time is an object.
const PACE: Duration = Duration::from_secs(10);

/// A bucket, or what is under one prefix of it.
pub(crate) struct Bucket {
    inner: Arc<BucketRequests>,
}

impl Bucket {
    /// What is under `prefix` in a store.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, name: &str) -> io::Result<Bucket> {
        Ok(Bucket { inner: Arc::new(BucketRequests::new(store, prefix, name)?) })
    }

    /// Writes and deletes an object.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let name = random_id("probe-").map_err(|error| io::Error::other(error.message))?;
        let path = self.inner.path(&name);
        self.inner.wait(self.inner.store.put(&path, PutPayload::new()))?;
        self.inner.delete(vec![path])
    }
}

impl Contents for Bucket {
    fn create(&self, name: &str, _: &str) -> io::Result<Box<dyn Draft>> {
        let (inner, path) = (Arc::clone(&self.inner), self.inner.path(name));
        Ok(Box::new(BucketDraft { inner, path, buffer: Vec::new(), upload: None, bytes: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<FileContents> {
        let path = self.inner.path(name);
        let bytes = self.inner.wait(self.inner.store.head(&path))?.size;
        let reader = Ranges { inner: Arc::clone(&self.inner), path, at: 0, end: bytes, piece: Bytes::new() };
        Ok(FileContents { bytes, reader: Box::new(reader) })
    }

    fn begin_segment(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(BucketSegment { inner: Arc::clone(&self.inner), name: name.to_owned(), objects: 0 }))
    }

    fn measure_segment(&self, name: &str) -> io::Result<u64> {
        Ok(self.inner.objects(name)?.iter().map(|object| object.size).sum())
    }

    fn read_segment(&self, name: &str, bytes: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut objects = self.inner.objects(name)?;
        let mut left = bytes;
        let counts = objects.iter().take_while(|object| {
            let has_more = left > 0;
            left = left.saturating_sub(object.size);
            has_more
        });
        let count = counts.count();
        objects.truncate(count);
        let objects = objects.into_iter().map(|object| object.location).collect::<Vec<_>>().into_iter();
        Ok(Box::new(Objects { inner: Arc::clone(&self.inner), objects, piece: Bytes::new() }.take(bytes)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.inner.path(name);
        // A file has nothing under its name, and a segment has nothing else.
        let mut paths: Vec<Path> = self.inner.list(&path)?.into_iter().map(|object| object.location).collect();
        paths.push(path);
        self.inner.delete(paths)
    }

    fn used(&self) -> io::Result<u64> {
        let kept: u64 = self.inner.list(&self.inner.prefix)?.iter().map(|object| object.size).sum();
        Ok(kept + self.inner.writing.load(Ordering::Relaxed))
    }

    fn older_than(&self, age: Duration) -> io::Result<Vec<String>> {
        let now = std::time::SystemTime::now();
        let mut fresh: HashMap<String, bool> = HashMap::new();
        for object in self.inner.list(&self.inner.prefix)? {
            if let Some(name) = self.inner.name_of(&object.location).filter(|name| is_ours(name)) {
                let written = std::time::SystemTime::from(object.last_modified);
                *fresh.entry(name).or_default() |= now.duration_since(written).unwrap_or_default() <= age;
            }
        }
        Ok(fresh.into_iter().filter(|(_, fresh)| !fresh).map(|(name, _)| name).collect())
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

struct BucketDraft {
    inner: Arc<BucketRequests>,
    path: Path,
    buffer: Vec<u8>,
    /// Once it is larger than a part.
    upload: Option<Box<dyn MultipartUpload>>,
    bytes: u64,
}

impl BucketDraft {
    fn send(&mut self) -> io::Result<()> {
        let part = PutPayload::from(std::mem::take(&mut self.buffer));
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => self.inner.wait(self.inner.store.put_multipart(&self.path))?,
        };
        let sent = upload.put_part(part);
        self.upload = Some(upload);
        self.inner.wait(sent)
    }
}

impl Write for BucketDraft {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let taken = piece.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&piece[..taken]);
        self.bytes += taken as u64;
        self.inner.writing.fetch_add(taken as u64, Ordering::Relaxed);
        if self.buffer.len() == PART {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Draft for BucketDraft {
    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        if self.upload.is_some() && !self.buffer.is_empty() {
            self.send()?;
        }
        match self.upload.as_mut() {
            Some(upload) => self.inner.wait(upload.complete())?,
            None => {
                let whole = PutPayload::from(std::mem::take(&mut self.buffer));
                self.inner.wait(self.inner.store.put(&self.path, whole))?
            }
        };
        self.upload = None;
        Ok(self.bytes)
    }
}

impl Drop for BucketDraft {
    fn drop(&mut self) {
        self.inner.writing.fetch_sub(self.bytes, Ordering::Relaxed);
        // What a process that ends here leaves of an upload is the bucket's to delete, by a rule.
        if let Some(mut upload) = self.upload.take() {
            self.inner.spawn(async move { drop(upload.abort().await) });
        }
    }
}

struct BucketSegment {
    inner: Arc<BucketRequests>,
    name: String,
    objects: usize,
}

impl Segment for BucketSegment {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let path = self.inner.path(&self.name).join(number(self.objects));
        self.inner.wait(self.inner.store.put(&path, PutPayload::from(lines.to_vec())))?;
        self.objects += 1;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An object, read piece by piece.
struct Ranges {
    inner: Arc<BucketRequests>,
    path: Path,
    at: u64,
    end: u64,
    piece: Bytes,
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.at < self.end {
            let range = self.at..self.end.min(self.at + PIECE);
            self.piece = self.inner.wait(self.inner.store.get_range(&self.path, range))?;
            self.at += self.piece.len() as u64;
            if self.piece.is_empty() {
                return Err(self.inner.say(io::ErrorKind::UnexpectedEof, &format!("`{}` is cut short", self.path)));
            }
        }
        Ok(take(&mut self.piece, into))
    }
}

/// Objects, one after the other.
struct Objects {
    inner: Arc<BucketRequests>,
    objects: std::vec::IntoIter<Path>,
    piece: Bytes,
}

impl Read for Objects {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(path) = self.objects.next() else { return Ok(0) };
            let store = Arc::clone(&self.inner.store);
            self.piece = self.inner.wait(async move { store.get(&path).await?.bytes().await })?;
        }
        Ok(take(&mut self.piece, into))
    }
}

fn take(piece: &mut Bytes, into: &mut [u8]) -> usize {
    let count = piece.len().min(into.len());
    into[..count].copy_from_slice(&piece[..count]);
    piece.advance(count);
    count
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn bucket(prefix: &str) -> (Arc<dyn ObjectStore>, Bucket) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let bucket = Bucket::new(Arc::clone(&store), prefix.into(), "s3://test").expect("a bucket");
        bucket.probe().expect("it can be written");
        (store, bucket)
    }

    fn kept(bucket: &Bucket, name: &str, contents: &[u8]) {
        let mut draft = bucket.create(name, "meanwhile").expect("begun");
        draft.write_all(contents).expect("written");
        assert_eq!(draft.finish().expect("kept"), contents.len() as u64);
    }

    #[test]
    fn a_file_of_any_size_reads_back_and_one_that_is_not_finished_leaves_nothing() {
        for prefix in ["", "deployments/one"] {
            let (_, bucket) = bucket(prefix);
            for size in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 77] {
                let contents: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
                kept(&bucket, "file-a", &contents);
                let mut opened = bucket.open("file-a").expect("it is there");
                let mut read = Vec::new();
                opened.reader.read_to_end(&mut read).expect("read");
                assert!(opened.bytes == size as u64 && read == contents, "{size} bytes");
                assert_eq!(bucket.used().expect("looked"), size as u64);
            }
            let mut dropped = bucket.create("file-b", "meanwhile").expect("begun");
            dropped.write_all(&vec![1; PART + 10]).expect("written");
            assert_eq!(bucket.used().expect("looked"), (3 * PART + 87) as u64, "what is written now takes room");
            drop(dropped);
            assert_eq!(bucket.open("file-b").err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
            assert_eq!(bucket.used().expect("looked"), (2 * PART + 77) as u64);
            bucket.remove("file-a").expect("deleted");
            bucket.remove("file-a").expect("twice is fine");
            assert_eq!(bucket.used().expect("looked"), 0);
        }
    }

    #[test]
    fn strays_are_files_and_segments_and_nothing_else_in_the_bucket() {
        let (store, bucket) = bucket("mine");
        kept(&bucket, "file-a", b"x");
        let mut segment = bucket.begin_segment("batch_1.1.output").expect("begun");
        segment.append(b"one\n").expect("written");
        segment.append(b"two\n").expect("written");
        kept(&bucket, "else", b"x");
        bucket.inner.wait(store.put(&"others/file-b".into(), "x".into())).expect("put");
        assert!(bucket.older_than(Duration::from_secs(60)).expect("looked").is_empty());
        let mut old = bucket.older_than(Duration::ZERO).expect("looked");
        old.sort();
        assert_eq!(old, ["batch_1.1.output", "file-a"]);
        bucket.remove("batch_1.1.output").expect("deleted");
        assert_eq!(
            (bucket.measure_segment("batch_1.1.output").expect("measured"), bucket.used().expect("looked")),
            (0, 2)
        );
    }

    #[test]
    fn a_segment_counts_up_to_the_first_object_that_is_missing() {
        let (_, bucket) = bucket("");
        let mut segment = bucket.begin_segment("batch_1.1.output").expect("begun");
        for line in ["one\n", "two\n", "three\n"] {
            segment.append(line.as_bytes()).expect("written");
        }
        bucket.inner.delete(vec![bucket.inner.path("batch_1.1.output").join(number(1))]).expect("deleted");
        assert_eq!(bucket.measure_segment("batch_1.1.output").expect("measured"), 4);
    }
}
