//! Which output of the graph is read.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result, clip};

/// An output of the graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Its place among the graph's outputs.
    pub(crate) at: usize,
    /// 2: a row of numbers for each text. 3: one for each token.
    pub(crate) axes: usize,
    /// Numbers of a row, where the graph says.
    pub(crate) width: Option<usize>,
}

/// Finds the output: the one that is set, else the first of `names` that is there, else the only
/// one of floats that has as many axes as one of `axes`.
///
/// # Errors
/// When there is none, or several might be it; names what there is.
pub(crate) fn find(specs: &[TensorSpec], set: Option<&str>, names: &[&str], axes: &[usize]) -> Result<Output> {
    let fits = |spec: &TensorSpec| {
        let float = matches!(spec.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64);
        float && axes.contains(&spec.shape.len())
    };
    let named = |name: &str| specs.iter().position(|spec| spec.name == name && fits(spec));
    let at = match set {
        Some(name) => named(name),
        None => names.iter().find_map(|name| named(name)).or_else(|| {
            let mut fitting = (0..specs.len()).filter(|&at| fits(&specs[at]));
            // Two axes of an output that no name explains may be anything.
            let only = fitting.next().filter(|_| fitting.next().is_none())?;
            (specs[only].shape.len() == axes[axes.len() - 1]).then_some(only)
        }),
    };
    let Some(at) = at else {
        let there: Vec<String> =
            specs.iter().map(|spec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape)).collect();
        let wanted = match set {
            Some(name) => format!("`output` in `[text]` of model.toml names `{}`", clip(name)),
            None => format!("none of the graph's outputs is {}", names.join(" or ")),
        };
        let rows: Vec<&str> =
            axes.iter().map(|axes| if *axes == 2 { "[texts, numbers]" } else { "[texts, tokens, numbers]" }).collect();
        return Err(Error::invalid(format!(
            "{wanted}; an output of floats {} is wanted, and there are: {}; \
             set `output` in `[text]` of model.toml, or `task = \"tensors\"` for the graph as it is",
            rows.join(" or "),
            there.join(", ")
        )));
    };
    let spec = &specs[at];
    let width = spec.shape.last().and_then(|&width| usize::try_from(width).ok());
    Ok(Output { name: spec.name.to_string(), at, axes: spec.shape.len(), width })
}
