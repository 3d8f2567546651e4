//! The queue in one process, on SQLite.
