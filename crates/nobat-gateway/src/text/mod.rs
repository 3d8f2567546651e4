//! What the protocols made for texts share: which model is asked, how texts are read
//! and become a request, and answers of any number of rows.
//!
//! The models' side is a task's signature: BYTES in, its task's outputs out.

pub(crate) mod answers;
pub(crate) mod model;
pub(crate) mod outputs;
pub(crate) mod ranking;
pub(crate) mod texts;
