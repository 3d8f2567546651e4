//! Sizes as products: of a number, of how many rows there are, and of symbols that
//! stand for what is the same in every run that may be joined.

use std::collections::HashMap;

use smallvec::SmallVec;

/// A size, or an element of a small tensor: `factor * rows^power * symbols`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Size {
    factor: i64,
    power: u8,
    symbols: SmallVec<[u32; 2]>,
}

/// An element; `None` depends on how many rows there are in a way that is not known.
pub(crate) type Element = Option<Size>;

impl Size {
    pub(crate) fn of(number: i64) -> Size {
        Size { factor: number, power: 0, symbols: SmallVec::new() }
    }

    /// How many rows there are.
    pub(crate) fn rows() -> Size {
        Size { factor: 1, power: 1, symbols: SmallVec::new() }
    }

    fn symbol(symbol: u32) -> Size {
        Size { factor: 1, power: 0, symbols: SmallVec::from_slice(&[symbol]) }
    }

    pub(crate) fn number(&self) -> Option<i64> {
        (self.power == 0 && self.symbols.is_empty()).then_some(self.factor)
    }

    pub(crate) fn is(&self, number: i64) -> bool {
        self.number() == Some(number)
    }

    /// Whether it depends on how many rows there are.
    pub(crate) fn has_rows(&self) -> bool {
        self.power > 0
    }

    /// The size without its one factor of rows; `None` for any other power.
    pub(crate) fn without_rows(&self) -> Option<Size> {
        (self.power == 1).then(|| Size { power: 0, ..self.clone() })
    }

    /// The product; `None` where it is too large.
    pub(crate) fn times(&self, other: &Size) -> Option<Size> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Size::of(0));
        }
        let mut symbols: SmallVec<[u32; 2]> = self.symbols.iter().chain(&other.symbols).copied().collect();
        symbols.sort_unstable();
        let power = self.power.checked_add(other.power)?;
        (symbols.len() <= 16).then_some(Size { factor, power, symbols })
    }

    /// The quotient where it is exact; a symbol counts as other than 0.
    pub(crate) fn by(&self, other: &Size) -> Option<Size> {
        if other.factor == 0 || self.factor % other.factor != 0 || self.power < other.power {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            let at = symbols.iter().position(|own| own == symbol)?;
            symbols.remove(at);
        }
        let factor = self.factor / other.factor;
        let power = if factor == 0 { 0 } else { self.power - other.power };
        Some(Size { factor, power, symbols })
    }

    pub(crate) fn product<'a>(sizes: impl IntoIterator<Item = &'a Size>) -> Option<Size> {
        sizes.into_iter().try_fold(Size::of(1), |all, own| all.times(own))
    }
}

/// The symbols of one analysis.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// The same operation on the same values gives the same.
    known: HashMap<(String, Vec<Size>), u32>,
    /// Whether each is a size: whole and never negative.
    sizes: Vec<bool>,
}

impl Symbols {
    fn add(&mut self, is_size: bool) -> u32 {
        self.sizes.push(is_size);
        self.sizes.len() as u32 - 1
    }

    /// A size that nothing is known of, but that it is the same in every run.
    pub(crate) fn any_size(&mut self) -> Size {
        Size::symbol(self.add(true))
    }

    /// As [`Symbols::any_size`], of a value that may be no size.
    pub(crate) fn any(&mut self) -> Size {
        Size::symbol(self.add(false))
    }

    /// What an operation makes of values that are the same in every run.
    fn result(&mut self, operation: &str, of: &[&Size], is_size: bool) -> Element {
        if of.iter().any(|size| size.has_rows()) {
            return None;
        }
        // The result of others depends on attributes or on the datatype.
        if !matches!(operation, "Add" | "Sub" | "Mul") {
            return Some(Size::symbol(self.add(is_size)));
        }
        let origin = (operation.to_owned(), of.iter().map(|&size| size.clone()).collect());
        if let Some(&symbol) = self.known.get(&origin) {
            return Some(Size::symbol(symbol));
        }
        let symbol = self.add(is_size);
        self.known.insert(origin, symbol);
        Some(Size::symbol(symbol))
    }

    /// Whether it is whole and never negative.
    pub(crate) fn is_size(&self, size: &Size) -> bool {
        size.factor >= 0 && size.symbols.iter().all(|&symbol| self.sizes[symbol as usize])
    }

    fn is_whole(&self, size: &Size) -> bool {
        size.symbols.iter().all(|&symbol| self.sizes[symbol as usize])
    }

    /// The size that two axes have after broadcasting, of which neither is the rows'.
    pub(crate) fn broadcast(&mut self, one: &Size, other: &Size) -> Size {
        match (one.number(), other.number()) {
            _ if one == other => one.clone(),
            (Some(1), _) => other.clone(),
            (_, Some(1)) => one.clone(),
            (Some(_), _) => one.clone(),
            (_, Some(_)) => other.clone(),
            _ => self.any_size(),
        }
    }

    /// An operator on two elements, by its name in the standard.
    pub(crate) fn binary(&mut self, op: &str, one: &Element, other: &Element) -> Element {
        let (one, other) = (one.as_ref()?, other.as_ref()?);
        let known = match op {
            "Add" if one.is(0) => Some(other.clone()),
            "Add" | "Sub" if other.is(0) => Some(one.clone()),
            "Add" | "Sub" => {
                let like = one.power == other.power && one.symbols == other.symbols;
                let factor = match op {
                    "Add" => one.factor.checked_add(other.factor),
                    _ => one.factor.checked_sub(other.factor),
                };
                factor.filter(|_| like).map(|factor| match factor {
                    0 => Size::of(0),
                    factor => Size { factor, ..one.clone() },
                })
            }
            "Mul" => one.times(other),
            "Div" => one.by(other),
            "Equal" => self.equal(one, other).map(|equal| Size::of(i64::from(equal))),
            "Min" | "Max" if one == other => Some(one.clone()),
            _ => match (one.number(), other.number()) {
                (Some(one), Some(other)) => numbers(op, one, other).map(Size::of),
                _ => None,
            },
        };
        let is_size = matches!(op, "Min" | "Max" | "Add") && self.is_size(one) && self.is_size(other);
        known.or_else(|| self.result(op, &[one, other], is_size))
    }

    fn equal(&self, one: &Size, other: &Size) -> Option<bool> {
        let negative = |size: &Size| size.number().is_some_and(|number| number < 0);
        match (one.number(), other.number()) {
            (Some(one), Some(other)) => Some(one == other),
            _ if one == other => Some(true),
            _ if negative(one) && self.is_size(other) => Some(false),
            _ if negative(other) && self.is_size(one) => Some(false),
            _ => None,
        }
    }

    /// An operator on one element.
    pub(crate) fn unary(&mut self, op: &str, one: &Element) -> Element {
        let one = one.as_ref()?;
        let known = match op {
            "Identity" => Some(one.clone()),
            "Floor" | "Ceil" | "Round" | "Cast" | "CastLike" if self.is_whole(one) => Some(one.clone()),
            "Abs" if self.is_size(one) => Some(one.clone()),
            "Neg" => one.factor.checked_neg().map(|factor| Size { factor, ..one.clone() }),
            "Not" => one.number().map(|number| Size::of(i64::from(number == 0))),
            _ => None,
        };
        known.or_else(|| self.result(op, &[one], false))
    }

    /// `Where` on one element.
    pub(crate) fn choose(&mut self, condition: &Element, yes: &Element, no: &Element) -> Element {
        let condition = condition.as_ref()?;
        match condition.number() {
            Some(0) => no.clone(),
            Some(_) => yes.clone(),
            None if yes == no => yes.clone(),
            None => self.result("Where", &[condition, yes.as_ref()?, no.as_ref()?], false),
        }
    }
}

fn numbers(op: &str, one: i64, other: i64) -> Option<i64> {
    Some(match op {
        "Min" => one.min(other),
        "Max" => one.max(other),
        "Greater" => i64::from(one > other),
        "GreaterOrEqual" => i64::from(one >= other),
        "Less" => i64::from(one < other),
        "LessOrEqual" => i64::from(one <= other),
        "And" => i64::from(one != 0 && other != 0),
        "Or" => i64::from(one != 0 || other != 0),
        _ => return None,
    })
}
