//! The JSON of a prediction in TensorFlow Serving's two forms, which the native API
//! shares: `{"instances": …}` gives one entry per row and is answered by
//! `{"predictions": …}`, `{"inputs": …}` gives one tensor per input and is answered by
//! `{"outputs": …}`. The model's signature guides the reading.
//!
//! Source: TensorFlow Serving's REST API, "Predict API". `:classify` and `:regress`
//! carry their rows under `examples`.

mod answer;
mod format;
mod read;

pub use answer::{answer, entries, members};
pub use format::Format;
pub(crate) use format::PredictBody;
pub use read::{read, read_from};
