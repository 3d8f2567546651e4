//! What is known of one tensor in every run of a model.

use std::rc::Rc;

use super::dim::{Element, Size, Symbols};

/// Elements of a small tensor that are followed one by one.
pub(super) const MOST_ELEMENTS: usize = 256;

/// Where the rows of a tensor lie: along `axis`, whose length is `before * rows * each`.
/// Element `(b * rows + row) * each + e` of the axis is row `row`'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lie {
    /// The axis.
    pub(super) axis: usize,
    /// What goes round slower than the rows.
    pub(super) before: Size,
    /// What goes round faster.
    pub(super) each: Size,
}

impl Lie {
    /// One after the other along `axis`, one element each.
    pub(super) fn along(axis: usize) -> Lie {
        Lie { axis, before: Size::of(1), each: Size::of(1) }
    }

    /// The same rows on another axis.
    pub(super) fn on(&self, axis: usize) -> Lie {
        Lie { axis, ..self.clone() }
    }

    /// Whether a run's rows can be cut out of the whole as a piece of the first axis.
    pub(super) fn is_plain(&self) -> bool {
        self.axis == 0 && self.before.is(1) && self.each.is(1)
    }
}

/// Which node does what to the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    /// The node's name, its first output's where it has none.
    pub(super) node: String,
    /// Its operator.
    pub(super) op: String,
    /// What it does.
    pub(super) what: String,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.op.is_empty() {
            true => write!(f, "{}", self.what),
            false => write!(f, "node `{}` ({}) {}", self.node, self.op, self.what),
        }
    }
}

/// How a tensor of a joined run goes with those of the runs it is joined from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same in all of them.
    Same,
    /// Put together from theirs, along an axis.
    Rows(Lie),
    /// Depends on how many rows there are, and on nothing else of them.
    Counts,
    /// Put together from theirs it is not.
    Mixed(Rc<Why>),
    /// Nothing is known.
    Unknown(Rc<Why>),
}

/// What is known of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Value {
    /// How it goes with the rows.
    pub(super) kind: Kind,
    /// Its dimensions; `None` where not even their number is known.
    pub(super) dims: Option<Vec<Size>>,
    /// Its elements, where they are few and followed.
    pub(super) elements: Option<Vec<Element>>,
}

impl Value {
    /// The same in every run.
    pub(super) fn same(dims: Option<Vec<Size>>) -> Value {
        Value { kind: Kind::Same, dims, elements: None }
    }

    /// Rows on an axis of these dimensions.
    pub(super) fn rows(lie: Lie, dims: Vec<Size>) -> Value {
        Value { kind: Kind::Rows(lie), dims: Some(dims), elements: None }
    }

    /// Depends on how many rows there are.
    pub(super) fn counts(dims: Option<Vec<Size>>) -> Value {
        Value { kind: Kind::Counts, dims, elements: None }
    }

    /// A small tensor by its elements.
    pub(super) fn of_elements(dims: Vec<Size>, elements: Vec<Element>) -> Value {
        let free = |size: &Size| !size.has_rows();
        let same = dims.iter().all(free) && elements.iter().all(|own| own.as_ref().is_some_and(free));
        let kind = if same { Kind::Same } else { Kind::Counts };
        let elements = (elements.len() <= MOST_ELEMENTS).then_some(elements);
        Value { kind, dims: Some(dims), elements }
    }

    /// A list of sizes, such as a shape.
    pub(super) fn list(elements: Vec<Element>) -> Value {
        Value::of_elements(vec![Size::of(elements.len() as i64)], elements)
    }

    /// How many axes it has.
    pub(super) fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Whether it is the same in every run.
    pub(super) fn is_same(&self) -> bool {
        self.kind == Kind::Same
    }

    /// Where its rows lie.
    pub(super) fn lie(&self) -> Option<&Lie> {
        match &self.kind {
            Kind::Rows(lie) => Some(lie),
            _ => None,
        }
    }

    /// Its elements as plain numbers.
    pub(super) fn numbers(&self) -> Option<Vec<i64>> {
        let elements = self.elements.as_ref()?;
        elements.iter().map(|own| own.as_ref()?.number()).collect()
    }

    /// Its only element.
    pub(super) fn scalar(&self) -> Option<&Size> {
        match self.elements.as_deref()? {
            [Some(only)] => Some(only),
            _ => None,
        }
    }
}

/// Dimensions of which nothing is known but their number.
pub(super) fn any_dims(symbols: &mut Symbols, rank: usize) -> Vec<Size> {
    (0..rank).map(|_| symbols.any_size()).collect()
}
