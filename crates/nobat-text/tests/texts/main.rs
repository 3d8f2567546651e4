//! Folders and texts without a session: what is read, what is refused, and that no text breaks it.

mod answers;
mod bad_folders;
mod properties;
mod support;
mod tokens;
