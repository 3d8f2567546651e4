//! Requests to a bucket, waited for on threads that may, and where in it files and segments are.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

/// Objects that are deleted at the same time.
const DELETES: usize = 8;

/// A bucket, and what is under one prefix of it.
pub(super) struct BucketRequests {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    /// As it is set, for messages.
    name: String,
    /// Bytes of files that this process is writing: no listing has them.
    pub(super) writing: AtomicU64,
    runtime: OwnRuntime,
}

/// Carries the requests out: connections outlive the threads that use them.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // Dropped in a future, a runtime may not be waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl BucketRequests {
    /// Begins; nothing is sent yet.
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: Path, name: &str) -> io::Result<BucketRequests> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nobat-files").enable_all().build()?;
        let runtime = OwnRuntime(Some(runtime));
        Ok(BucketRequests { store, prefix, name: name.to_owned(), writing: AtomicU64::new(0), runtime })
    }

    /// Waits for a request, on a thread that may.
    pub(super) fn wait<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        let Some(runtime) = &self.runtime.0 else { return Err(io::Error::other("the bucket is closed")) };
        runtime.block_on(request).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: object_store::Error) -> io::Error {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        let kind = match &error {
            NotFound { .. } => io::ErrorKind::NotFound,
            PermissionDenied { .. } | Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
            _ => io::ErrorKind::Other,
        };
        self.say(kind, &error)
    }

    pub(super) fn say(&self, kind: io::ErrorKind, what: &dyn Display) -> io::Error {
        io::Error::new(kind, format!("bucket `{}`: {what}", self.name))
    }

    pub(super) fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    pub(super) fn list(&self, under: &Path) -> io::Result<Vec<ObjectMeta>> {
        // An empty prefix is the whole bucket.
        self.wait(self.store.list(Some(under).filter(|under| !under.is_root())).try_collect())
    }

    /// What counts of a segment: its objects in order, up to the first that is missing.
    pub(super) fn objects(&self, segment: &str) -> io::Result<Vec<ObjectMeta>> {
        let mut objects = self.list(&self.path(segment))?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let counts =
            objects.iter().enumerate().take_while(|(at, object)| object.location.filename() == Some(&number(*at)));
        let count = counts.count();
        objects.truncate(count);
        Ok(objects)
    }

    pub(super) fn delete(&self, paths: Vec<Path>) -> io::Result<()> {
        let delete = |path: Path| async move {
            match self.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                deleted => deleted,
            }
        };
        self.wait(futures::stream::iter(paths).map(delete).buffer_unordered(DELETES).try_collect())
    }

    /// The name of a file or a segment that an object is, or belongs to.
    pub(super) fn name_of(&self, path: &Path) -> Option<String> {
        path.prefix_match(&self.prefix)?.next().map(|part| part.as_ref().to_owned())
    }

    /// Carries a request out that nobody waits for.
    pub(super) fn spawn(&self, request: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime.0 {
            runtime.spawn(request);
        }
    }
}

/// The name of a segment's object.
pub(super) fn number(at: usize) -> String {
    format!("{at:08}")
}
