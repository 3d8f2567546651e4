//! Which column of a table belongs to which input, and the inputs as they fill.

use std::collections::HashSet;

use nobat_core::cell::Cell;
use nobat_core::json::{Reader, decode};
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::{Shape, Tensor};
use nobat_core::{Error, ErrorCode, Result, clip};

/// Most names that a message repeats.
const NAMES_SHOWN: usize = 20;

/// The inputs of a table's rows.
pub(super) struct Layout<'a> {
    signature: &'a ModelSignature,
    inputs: Vec<Filling<'a>>,
    /// Of each column of the table, the input that it fills; none where it is left out.
    slots: Vec<Option<usize>>,
    /// Whether all columns together are rows of one input.
    matrix: bool,
}

/// One input, filled row by row.
struct Filling<'a> {
    spec: &'a TensorSpec,
    data: Vec<u8>,
    /// The shape of one row.
    row: Shape,
    /// Whether its free axes are known.
    known: bool,
}

impl<'a> Layout<'a> {
    /// Lays a table with these columns out for a model.
    ///
    /// # Errors
    /// `invalid_tensor`, naming every column that is missing, every one that is unknown, one
    /// that comes twice, or the number that there should be.
    pub(super) fn of(signature: &'a ModelSignature, names: &[&str]) -> Result<Layout<'a>> {
        if let Some(spec) = matrix(signature, names) {
            let width = spec.shape[1];
            if width >= 0 && width != names.len() as i64 {
                return Err(invalid(format!(
                    "the table has {} columns ({}); input `{}` of model `{}` takes {width}",
                    names.len(),
                    shown(names),
                    spec.name,
                    signature.name
                )));
            }
            let row = Shape::from_slice(&[names.len() as i64]);
            let inputs = vec![Filling { spec, data: Vec::new(), row, known: true }];
            return Ok(Layout { signature, inputs, slots: vec![Some(0); names.len()], matrix: true });
        }
        let mut layout = Layout { signature, inputs: Vec::new(), slots: Vec::new(), matrix: false };
        let (mut unknown, mut seen) = (Vec::new(), HashSet::with_capacity(names.len()));
        for &name in names {
            if !seen.insert(name) {
                return Err(invalid(format!("the table has column `{}` twice; name it once", clip(name))));
            }
            let slot = signature.inputs.iter().find(|spec| spec.name == name).map(|spec| {
                layout.inputs.push(Filling::new(spec));
                layout.inputs.len() - 1
            });
            if slot.is_none() {
                unknown.push(name);
            }
            layout.slots.push(slot);
        }
        let lacks = |spec: &&TensorSpec| !spec.optional && !seen.contains(spec.name.as_str());
        let missing: Vec<_> = signature.inputs.iter().filter(lacks).map(|spec| spec.name.as_str()).collect();
        if !missing.is_empty() {
            return Err(invalid(format!(
                "the table lacks {}; its columns are {}, and model `{}` takes {}",
                columns(&missing),
                shown(names),
                signature.name,
                takes(signature)
            )));
        }
        if !unknown.is_empty() && !signature.ignores_extra_columns() {
            return Err(invalid(format!(
                "model `{}` does not take {}; it takes {}. Leave them out, or set extra_columns = \"ignore\" under [settings] of its model.toml",
                signature.name,
                match unknown[..] {
                    [""] => "a column without a name (pandas: index=False)".to_owned(),
                    _ => columns(&unknown),
                },
                takes(signature)
            )));
        }
        Ok(layout)
    }

    /// Whether the columns have to come in one order.
    pub(super) fn is_ordered(&self) -> bool {
        self.matrix
    }

    /// Whether a column fills an input.
    #[cfg(feature = "arrow")]
    pub(super) fn takes(&self, column: usize) -> bool {
        self.slots[column].is_some()
    }

    /// Appends one value of a column; `place` names its row, such as `row 3`.
    ///
    /// # Errors
    /// `invalid_tensor`, naming row and column, the value and what it should be.
    pub(super) fn push(
        &mut self,
        column: usize,
        cell: Cell<'_>,
        name: impl Fn() -> String,
        place: impl Fn() -> String,
    ) -> Result<()> {
        let Some(slot) = self.slots[column] else { return Ok(()) };
        let filling = &mut self.inputs[slot];
        let misfit = |why: String| invalid(format!("{}, column `{}` {why}", place(), clip(&name())));
        if self.signature.finite && cell.is_empty() && filling.spec.datatype.size().is_some() {
            return Err(misfit(format!("has no value; model `{}` takes finite numbers", self.signature.name)));
        }
        if !self.matrix {
            filling.is_row(&[]).map_err(&misfit)?;
        }
        cell.put(filling.spec.datatype, &mut filling.data).map_err(misfit)
    }

    /// Takes a JSON list or object as one row of a column; `place` names it.
    ///
    /// # Errors
    /// As [`decode::read`]; `invalid_tensor` for a shape that the input does not take, or
    /// that differs from the rows' before it.
    pub(super) fn push_json(&mut self, column: usize, reader: &mut Reader<'_>, place: &str) -> Result<()> {
        let Some(slot) = self.slots[column] else { return reader.skip_value(place) };
        let filling = &mut self.inputs[slot];
        if self.matrix {
            return Err(reader.unexpected("a single value", place));
        }
        let shape = decode::read(reader, filling.spec.datatype, &mut filling.data, place)?;
        filling.is_row(&shape).map_err(|why| invalid(format!("{place} {why}")))
    }

    /// The inputs of this many rows.
    ///
    /// # Errors
    /// `invalid_tensor` for no rows.
    pub(super) fn finish(self, rows: usize) -> Result<Vec<Tensor>> {
        if rows == 0 {
            return Err(invalid("the table has no rows; send at least one".into()));
        }
        Ok(self.inputs.into_iter().map(|filling| filling.finish(rows)).collect())
    }

    /// Refuses more rows than a request may have, before they are read.
    ///
    /// # Errors
    /// `payload_too_large`.
    #[cfg(feature = "arrow")]
    pub(super) fn check_rows(&self, rows: u64) -> Result<()> {
        let most = u64::from(self.signature.max_rows);
        if !self.signature.batched || rows <= most {
            return Ok(());
        }
        let message =
            format!("{rows} rows are over the limit of {most} for model `{}`; split the request", self.signature.name);
        Err(Error::new(ErrorCode::PayloadTooLarge, message))
    }
}

impl<'a> Filling<'a> {
    fn new(spec: &'a TensorSpec) -> Filling<'a> {
        let row = spec.shape.get(1..).unwrap_or_default().into();
        Filling { spec, data: Vec::new(), row, known: false }
    }

    /// Checks the shape of a row; one axis of length 1 may be left out or stand for the last.
    fn is_row(&mut self, shape: &[i64]) -> Result<(), String> {
        let mut whole: Shape = shape.into();
        while whole.len() < self.row.len() {
            whole.push(1);
        }
        let fits = whole.len() == self.row.len()
            && whole.iter().zip(&self.row).all(|(&have, &want)| have == want || (want < 0 && !self.known))
            // The shortest list is a single value.
            || self.row.is_empty() && whole.iter().all(|&dim| dim == 1);
        if !fits {
            return Err(self.needs(shape));
        }
        if whole.len() == self.row.len() {
            self.row = whole;
        }
        self.known = true;
        Ok(())
    }

    fn needs(&self, shape: &[i64]) -> String {
        let has = if shape.is_empty() { "is a single value".into() } else { format!("has shape {shape:?}") };
        format!("{has}; a row of input `{}` has shape {:?}", self.spec.name, self.row.as_slice())
    }

    fn finish(self, rows: usize) -> Tensor {
        let mut shape = self.row;
        shape.insert(0, rows as i64);
        Tensor { name: self.spec.name.clone(), datatype: self.spec.datatype, shape, data: self.data.into() }
    }
}

/// The only input, if rows of the table are rows of it: a matrix of as many columns, none of
/// which has its name.
fn matrix<'a>(signature: &'a ModelSignature, names: &[&str]) -> Option<&'a TensorSpec> {
    let mut required = signature.inputs.iter().filter(|spec| !spec.optional);
    let only = match (required.next(), required.next(), &signature.inputs[..]) {
        (Some(only), None, _) | (None, _, [only]) => only,
        _ => return None,
    };
    let wide = matches!(only.shape[..], [_, width] if width != 1) && signature.task.is_none();
    (wide && !names.iter().any(|&name| signature.inputs.iter().any(|spec| spec.name == name))).then_some(only)
}

fn columns(names: &[&str]) -> String {
    let word = if names.len() == 1 { "column" } else { "columns" };
    format!("{word} {}", shown(names))
}

fn shown(names: &[&str]) -> String {
    let first = names.iter().take(NAMES_SHOWN).map(|name| format!("`{}`", clip(name)));
    let more = if names.len() > NAMES_SHOWN { ", …" } else { "" };
    let first: Vec<_> = first.collect();
    if first.is_empty() { "none".into() } else { first.join(", ") + more }
}

fn takes(signature: &ModelSignature) -> String {
    let specs = signature.inputs.iter().take(NAMES_SHOWN);
    let more = if signature.inputs.len() > NAMES_SHOWN { ", …" } else { "" };
    let specs: Vec<_> = specs.map(|spec| format!("`{}` {}", spec.name, spec.datatype)).collect();
    specs.join(", ") + more
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}
