//! Which of the graph's inputs takes pictures, and what the others take.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result, clip};

use crate::settings::{ImageSettings, Layout};

/// Names under which exporters give pictures.
const NAMES: [&str; 8] = ["pixel_values", "images", "image", "input", "x", "input_tensor", "image_tensor", "data"];

/// What the graph's inputs are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GraphInputs {
    /// The place of the one for pictures.
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    pub(crate) layout: Layout,
    /// Channels, where the graph says.
    pub(crate) channels: Option<usize>,
    /// Width, where the graph says.
    pub(crate) width: Option<u32>,
    /// Height, where the graph says.
    pub(crate) height: Option<u32>,
    /// The place of a mask of what is picture and what is free space.
    pub(crate) mask: Option<(usize, Datatype)>,
    /// How many inputs there are.
    pub(crate) count: usize,
}

impl GraphInputs {
    /// Finds the inputs; what is guessed is added to `found`.
    ///
    /// # Errors
    /// When none or several may be it, or another one must be given.
    pub(crate) fn new(specs: &[TensorSpec], settings: &ImageSettings, found: &mut Vec<String>) -> Result<GraphInputs> {
        let fits = |spec: &&TensorSpec| {
            spec.shape.len() == 4 && matches!(spec.datatype, Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8)
        };
        let there = || {
            let each = specs.iter().map(|spec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape));
            each.collect::<Vec<_>>().join(", ")
        };
        let named = |name: &str| specs.iter().filter(fits).find(|spec| spec.name == name);
        let spec = match &settings.input {
            Some(name) => named(name),
            None => NAMES.iter().find_map(|name| named(name)).or_else(|| {
                let mut fitting = specs.iter().filter(fits);
                fitting.next().filter(|_| fitting.next().is_none())
            }),
        };
        let Some(spec) = spec else {
            let wanted = match &settings.input {
                Some(name) => format!("`input` in `[image]` of model.toml names `{}`", clip(name)),
                None => "none of the graph's inputs is known to take pictures".to_owned(),
            };
            return Err(Error::invalid(format!(
                "{wanted}; an input of four axes of UINT8, FP16 or FP32 is wanted, and there are: {}; \
                 set `input` in `[image]` of model.toml, or `task = \"tensors\"` for the graph as it is",
                there()
            )));
        };
        let at = specs.iter().position(|own| own.name == spec.name).unwrap_or(0);
        let mask = specs.iter().position(|own| own.name == "pixel_mask" && own.shape.len() == 3);
        let unknown = |(own, spec): &(usize, &TensorSpec)| *own != at && Some(*own) != mask && !spec.optional;
        if let Some((_, other)) = specs.iter().enumerate().find(unknown) {
            return Err(Error::invalid(format!(
                "input `{}` of the graph is none that is made of pictures; inputs: {}; \
                 set `task = \"tensors\"` in `[image]` of model.toml for the graph as it is",
                other.name,
                there()
            )));
        }
        let dim = |at: usize| spec.shape.get(at).copied().filter(|&dim| dim > 0);
        let is_channels = |at: usize| matches!(dim(at), Some(1 | 3));
        let layout = settings.layout.unwrap_or_else(|| match (is_channels(1), is_channels(3)) {
            (true, _) => Layout::Nchw,
            (false, true) => Layout::Nhwc,
            (false, false) => {
                found.push(format!("layout nchw: a guess, input `{}` is {:?}", spec.name, spec.shape));
                Layout::Nchw
            }
        });
        let [channels, height, width] = match layout {
            Layout::Nchw => [1, 2, 3],
            Layout::Nhwc => [3, 1, 2],
        };
        let side = |at: usize| dim(at).and_then(|dim| u32::try_from(dim).ok());
        let channels = dim(channels).map(|dim| dim as usize);
        if let Some(other) = channels.filter(|count| !matches!(count, 1 | 3)) {
            return Err(Error::invalid(format!(
                "input `{}` of the graph takes {other} channels; pictures have 1 or 3; set `layout` in `[image]` of \
                 model.toml, or `task = \"tensors\"` for the graph as it is",
                spec.name
            )));
        }
        Ok(GraphInputs {
            at,
            name: spec.name.to_string(),
            datatype: spec.datatype,
            layout,
            channels,
            width: side(width),
            height: side(height),
            mask: mask.map(|at| (at, specs[at].datatype)),
            count: specs.iter().filter(|spec| !spec.optional).count(),
        })
    }
}

/// An output of the graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
}

impl Output {
    /// The output that is set, else the first of `names` that is there, else the only one of floats that
    /// has one of these numbers of axes.
    ///
    /// # Errors
    /// When there is none, or several might be it.
    pub(crate) fn find(specs: &[TensorSpec], set: Option<&str>, names: &[&str], axes: &[usize]) -> Result<Output> {
        let float = |spec: &TensorSpec| {
            matches!(spec.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
        };
        let fits = |spec: &TensorSpec| axes.contains(&spec.shape.len()) && float(spec);
        let named = |name: &str| specs.iter().position(|spec| spec.name == name && fits(spec));
        let at = match set {
            Some(name) => specs.iter().position(|spec| spec.name == name),
            None => names.iter().find_map(|name| named(name)).or_else(|| {
                let mut fitting = (0..specs.len()).filter(|&at| fits(&specs[at]));
                fitting.next().filter(|_| fitting.next().is_none())
            }),
        };
        let Some(at) = at else {
            let there = specs.iter().map(|spec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape));
            let there = there.collect::<Vec<_>>().join(", ");
            return Err(Error::invalid(format!(
                "it is not known which output answers; there are: {there}; set `output` in `[image]` of model.toml, \
                 or `task = \"tensors\"` for the graph as it is"
            )));
        };
        let spec = &specs[at];
        Ok(Output { at, name: spec.name.to_string(), shape: spec.shape.clone() })
    }

    /// The output of exactly this name.
    pub(crate) fn named(specs: &[TensorSpec], name: &str) -> Option<Output> {
        let at = specs.iter().position(|spec| spec.name == name)?;
        Some(Output { at, name: name.to_owned(), shape: specs[at].shape.clone() })
    }

    /// An axis, where the graph says.
    pub(crate) fn axis(&self, at: usize) -> Option<usize> {
        self.shape.get(at).and_then(|&dim| usize::try_from(dim).ok()).filter(|&dim| dim > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
    }

    #[test]
    fn the_input_and_its_layout_are_found_and_what_is_not_known_is_refused_by_name() {
        let mut found = Vec::new();
        let settings = ImageSettings::default();
        let planes = GraphInputs::new(&[spec("anything", Datatype::Fp32, &[-1, 3, 224, 192])], &settings, &mut found);
        let planes = planes.expect("found");
        assert_eq!((planes.layout, planes.width, planes.height), (Layout::Nchw, Some(192), Some(224)));
        let pixels = GraphInputs::new(&[spec("x", Datatype::Uint8, &[1, -1, -1, 3])], &settings, &mut found);
        assert_eq!(pixels.expect("found").layout, Layout::Nhwc);
        assert!(found.is_empty());
        let open = GraphInputs::new(&[spec("x", Datatype::Fp32, &[-1, -1, -1, -1])], &settings, &mut found);
        assert_eq!((open.expect("found").layout, found.len()), (Layout::Nchw, 1));
        let with = [spec("x", Datatype::Fp32, &[1, 3, 8, 8]), spec("state", Datatype::Fp32, &[1, 4])];
        let refused = GraphInputs::new(&with, &settings, &mut found).expect_err("another").message;
        assert!(refused.contains("`state`") && refused.contains("task = \"tensors\""), "{refused}");
        let none = GraphInputs::new(&[spec("ids", Datatype::Int64, &[-1, -1])], &settings, &mut found);
        assert!(none.expect_err("texts").message.contains("ids INT64 [-1, -1]"));
    }
}
