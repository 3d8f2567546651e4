//! Files: a record each in the metadata store, the contents in a folder.

pub mod record;
pub mod store;

pub use record::FileRecord;
