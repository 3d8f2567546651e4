//! What is known of one tensor in every run of a model.

use std::rc::Rc;

use super::dim::{Element, Size, Symbols};
use super::graph::Tensor;

/// Elements of a small tensor that are followed one by one.
pub(crate) const MOST_ELEMENTS: usize = 256;

/// Where the rows of a tensor are: along `axis`, whose length is `outer * rows * inner`.
/// Element `(o * rows + row) * inner + i` of the axis belongs to row `row`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowAxis {
    pub(crate) axis: usize,
    pub(crate) outer: Size,
    pub(crate) inner: Size,
}

impl RowAxis {
    /// One after the other along `axis`, one element each.
    pub(crate) fn along(axis: usize) -> RowAxis {
        RowAxis { axis, outer: Size::of(1), inner: Size::of(1) }
    }

    /// The same rows on another axis.
    pub(crate) fn on(&self, axis: usize) -> RowAxis {
        RowAxis { axis, ..self.clone() }
    }

    /// Whether a run's rows can be cut out of the whole as a piece of the first axis.
    pub(crate) fn is_plain(&self) -> bool {
        self.axis == 0 && self.outer.is(1) && self.inner.is(1)
    }
}

/// Which node does what to the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The node's name, its first output's where it has none.
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) what: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.op.is_empty() {
            true => write!(f, "{}", self.what),
            false => write!(f, "node `{}` ({}) {}", self.node, self.op, self.what),
        }
    }
}

/// How a tensor of a joined run goes with those of the runs it is joined from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The same in all of them.
    Same,
    /// Put together from theirs, along an axis.
    Rows(RowAxis),
    /// Depends on how many rows there are, and on nothing else of them.
    Counts,
    /// Not put together from theirs.
    Mixed(Rc<Cause>),
    Unknown(Rc<Cause>),
}

#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// How it goes with the rows.
    pub(crate) kind: Kind,
    /// Its dimensions; `None` where not even their number is known.
    pub(crate) dims: Option<Vec<Size>>,
    /// Its elements, where they are few and followed.
    pub(crate) elements: Option<Vec<Element>>,
}

impl Value {
    /// Of which nothing else is known.
    pub(crate) fn of_kind(kind: Kind) -> Value {
        Value { kind, dims: None, elements: None }
    }

    pub(crate) fn same(dims: Option<Vec<Size>>) -> Value {
        Value { kind: Kind::Same, dims, elements: None }
    }

    /// Rows on an axis of these dimensions.
    pub(crate) fn rows(row: RowAxis, dims: Vec<Size>) -> Value {
        Value { kind: Kind::Rows(row), dims: Some(dims), elements: None }
    }

    /// Depends on how many rows there are.
    pub(crate) fn counts(dims: Option<Vec<Size>>) -> Value {
        Value { kind: Kind::Counts, dims, elements: None }
    }

    /// A small tensor by its elements.
    pub(crate) fn of_elements(dims: Vec<Size>, elements: Vec<Element>) -> Value {
        let free = |size: &Size| !size.has_rows();
        let same = dims.iter().all(free) && elements.iter().all(|own| own.as_ref().is_some_and(free));
        let kind = if same { Kind::Same } else { Kind::Counts };
        let elements = (elements.len() <= MOST_ELEMENTS).then_some(elements);
        Value { kind, dims: Some(dims), elements }
    }

    /// A constant of the file.
    pub(crate) fn constant(tensor: &Tensor, symbols: &mut Symbols) -> Value {
        let dims = tensor.dims.iter().map(|&dim| Size::of(dim)).collect();
        match &tensor.values {
            Some(values) => {
                let elements = values.iter().map(|own| Some(own.map_or_else(|| symbols.any(), Size::of)));
                Value::of_elements(dims, elements.collect())
            }
            None => Value::same(Some(dims)),
        }
    }

    /// A part of this value, of these dimensions and elements.
    pub(crate) fn part(&self, dims: Vec<Size>, elements: Option<Vec<Element>>) -> Value {
        match elements.filter(|_| self.row_axis().is_none()) {
            Some(elements) => Value::of_elements(dims, elements),
            None => Value { kind: self.kind.clone(), dims: Some(dims), elements: None },
        }
    }

    /// A list of sizes, such as a shape.
    pub(crate) fn list(elements: Vec<Element>) -> Value {
        Value::of_elements(vec![Size::of(elements.len() as i64)], elements)
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    pub(crate) fn is_same(&self) -> bool {
        self.kind == Kind::Same
    }

    /// Where its rows are.
    pub(crate) fn row_axis(&self) -> Option<&RowAxis> {
        match &self.kind {
            Kind::Rows(row) => Some(row),
            _ => None,
        }
    }

    /// Its elements as plain numbers.
    pub(crate) fn numbers(&self) -> Option<Vec<i64>> {
        let elements = self.elements.as_ref()?;
        elements.iter().map(|own| own.as_ref()?.number()).collect()
    }

    pub(crate) fn scalar(&self) -> Option<&Size> {
        match self.elements.as_deref()? {
            [Some(only)] => Some(only),
            _ => None,
        }
    }
}

/// Dimensions of which nothing is known but their number.
pub(crate) fn any_dims(symbols: &mut Symbols, rank: usize) -> Vec<Size> {
    (0..rank).map(|_| symbols.any_size()).collect()
}
