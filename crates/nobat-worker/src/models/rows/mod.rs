//! Whether a model's rows are independent, as its graph shows it.
//!
//! A dynamic first axis does not prove that rows may share a run, and no trial does:
//! it can only refute. So the batch axis is followed through the graph, by a rule per
//! operator. With `x` of `[n, 4]` and `w` of `[4, 2]`:
//!
//! ```text
//! h = MatMul(x, w)              rows on axis 0 of [n, 2]
//! m = ReduceMax(h, axes=[1])    rows on axis 0 of [n, 1]      (over all axes: mixed)
//! s = Shape(h)                  counts: [n, 2], element by element
//! t = Concat(Gather(s, 0), -1)  counts: [n, -1]
//! r = Reshape(h, t)             rows on axis 0 of [n, 2]
//! y = Sub(r, m)                 rows on axis 0 of [n, 2]: proven
//! ```
//!
//! What is proven is that a run over the rows of several requests, whose other axes
//! are as long, gives the answers of their own runs one after the other. Apart from
//! [`analyse_file`] nothing here reads a file, and nothing a clock or ONNX Runtime.

mod analysis;
mod axes;
mod dim;
mod graph;
mod ops;
mod read;
mod value;

use std::path::Path;

use analysis::{Analysis, Scope};
use axes::{batch_axis, other_output, required};
use dim::Size;
use graph::{Axis, Model};
use value::{Cause, Kind, RowAxis, Value};

use crate::engine::stream::Stream;

/// What a model's graph shows of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowAnalysis {
    /// Rows may share a run.
    Proven,
    /// They may not, and which node mixes them.
    Mixed(String),
    /// The inputs have no first axis in common.
    NoBatchAxis(String),
    /// Neither is shown.
    Unknown {
        /// What is not known.
        why: String,
        /// Why a trial with synthetic input would show nothing.
        suspect: Option<String>,
    },
}

/// Follows the batch axis through the graph of a model file, whose weights are skipped.
///
/// # Errors
/// One line, where the file cannot be read.
pub fn analyse_file(file: &Path) -> Result<RowAnalysis, String> {
    let mut stream = Stream::open(file, None).map_err(|error| error.to_string())?;
    let model = read::read(&mut stream);
    // A file that cannot be read to its end is reported as that, not as what was parsed of it.
    stream.finish().map_err(|error| error.to_string())?;
    Ok(analyse(&model.map_err(|error| error.to_string())?))
}

/// Follows the batch axis through a model.
fn analyse(model: &Model) -> RowAnalysis {
    let graph = &model.graph;
    let batch = match batch_axis(graph) {
        Ok(name) => name,
        Err(why) => return RowAnalysis::NoBatchAxis(why),
    };
    let mut analysis = Analysis::new(model);
    let mut scope = Scope::new(None);
    for port in required(graph) {
        let Some(axes) = &port.axes else {
            let why = format!("the axes of input `{}` are not known", port.name);
            return RowAnalysis::Unknown { why, suspect: None };
        };
        let inner = axes.iter().skip(1).map(|axis| match axis {
            Axis::Fixed(size) => Size::of(*size),
            // Requests need not have equal lengths where axes have equal names.
            Axis::Named(_) | Axis::Free => analysis.symbols.any_size(),
        });
        let dims = std::iter::once(Size::rows()).chain(inner).collect();
        scope.set(&port.name, Value::rows(RowAxis::along(0), dims));
    }
    analysis.graph(graph, &model.opsets, &mut scope);
    let mut unknown = None;
    for port in &graph.outputs {
        let name = &port.name;
        let why = match scope.get(name).map(|value| &value.kind) {
            Some(Kind::Rows(row)) if row.is_plain() => continue,
            Some(Kind::Mixed(why)) => return RowAnalysis::Mixed(why.to_string()),
            Some(Kind::Rows(row)) if row.axis > 0 => {
                return RowAnalysis::Mixed(format!(
                    "the rows of output `{name}` are on axis {}, not the first",
                    row.axis
                ));
            }
            Some(Kind::Rows(_)) => {
                return RowAnalysis::Mixed(format!(
                    "output `{name}` has more than one element of its first axis for each row"
                ));
            }
            Some(Kind::Same) => return RowAnalysis::Mixed(format!("output `{name}` is the same for all rows")),
            Some(Kind::Counts) => {
                return RowAnalysis::Mixed(format!("output `{name}` depends on how many rows there are"));
            }
            Some(Kind::Unknown(why)) => why.to_string(),
            None => format!("output `{name}` is not there"),
        };
        unknown.get_or_insert(why);
    }
    match unknown {
        None => RowAnalysis::Proven,
        Some(why) => match other_output(graph, batch.as_deref()) {
            Some(why) => RowAnalysis::NoBatchAxis(why),
            None => RowAnalysis::Unknown { why, suspect: analysis.suspect.as_ref().map(Cause::to_string) },
        },
    }
}

#[cfg(test)]
mod tests;
