//! Files: a record each in the metadata store, the contents in a folder or a bucket.

pub(crate) mod bucket;
mod bucket_requests;
pub(crate) mod contents;
pub(crate) mod folder;
pub mod record;
mod s3;
pub mod store;

pub use contents::FileContents;
pub use record::FileRecord;
