//! Models on disk: which folders are models, what their files say, and
//! whether they may be opened.

pub mod load;
pub mod scan;
