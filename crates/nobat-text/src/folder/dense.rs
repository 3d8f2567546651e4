//! A dense layer over an embedding: `2_Dense/config.json` and its weights.

use half::{bf16, f16};
use nobat_core::{Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};

use super::files::{Files, MOST_DATA};

/// What follows the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Relu,
    Gelu,
    Sigmoid,
    Silu,
}

impl Activation {
    fn read(path: &str) -> Option<Activation> {
        Some(match path.rsplit('.').next()? {
            "Identity" => Activation::Identity,
            "Tanh" => Activation::Tanh,
            "ReLU" => Activation::Relu,
            "GELU" => Activation::Gelu,
            "Sigmoid" => Activation::Sigmoid,
            "SiLU" => Activation::Silu,
            _ => return None,
        })
    }

    pub(crate) fn apply(self, x: f32) -> f32 {
        match self {
            Activation::Identity => x,
            Activation::Tanh => x.tanh(),
            Activation::Relu => x.max(0.0),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

/// y = activation(W x + b), and x again where it has a residual.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// By output, then input.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    activation: Activation,
    residual: Residual,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Residual {
    None,
    Same,
    Projected(Vec<f32>),
}

impl Dense {
    /// Reads a dense module's folder.
    ///
    /// # Errors
    /// Weights that are missing or do not fit, an activation that is not known.
    pub(crate) fn read(files: &Files, folder: &str) -> Result<Dense> {
        let refuse = |what: String| Error::invalid(format!("`{folder}` of the model: {what}"));
        let config: Map<String, Value> = files
            .json(&join(folder, "config.json"))?
            .ok_or_else(|| refuse("config.json is missing; save the model again".into()))?;
        if let Some(input) = config.get("module_input_name").and_then(Value::as_str)
            && input != "sentence_embedding"
        {
            return Err(refuse(format!(
                "it reads `{input}`; only layers over `sentence_embedding` are known; \
                 export the graph with its modules, so that it has the output `sentence_embedding`"
            )));
        }
        let activation = match config.get("activation_function").and_then(Value::as_str) {
            None => Activation::Tanh,
            Some(path) => Activation::read(path).ok_or_else(|| {
                refuse(format!(
                    "activation_function `{path}` is not known; known: Identity, Tanh, ReLU, GELU, Sigmoid, SiLU"
                ))
            })?,
        };
        let place = join(folder, "model.safetensors");
        let Some(bytes) = files.bytes(&place, MOST_DATA)? else {
            return Err(refuse(
                "model.safetensors is missing; save the model with sentence-transformers 2.3 or later".into(),
            ));
        };
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|error| refuse(format!("model.safetensors: {error}")))?;
        let get = |name: &str| {
            let view = tensors.tensor(name).map_err(|error| refuse(format!("model.safetensors: {error}")))?;
            let numbers = floats(&view).ok_or_else(|| {
                refuse(format!("model.safetensors keeps `{name}` as {:?}; save it as F32", view.dtype()))
            })?;
            Ok((view.shape().to_vec(), numbers))
        };
        let (shape, weight) = get("linear.weight")?;
        let &[outputs, inputs] = shape.as_slice() else {
            return Err(refuse(format!("`linear.weight` has shape {shape:?}; it needs two dimensions")));
        };
        let fit = |name: &str, want: &[usize]| {
            let (shape, numbers) = get(name)?;
            match shape == want {
                true => Ok(numbers),
                false => Err(refuse(format!("`{name}` has shape {shape:?}; it needs {want:?}"))),
            }
        };
        let bias = match tensors.tensor("linear.bias").is_ok() {
            true => Some(fit("linear.bias", &[outputs])?),
            false => None,
        };
        let residual = match config.get("use_residual").and_then(Value::as_bool).unwrap_or(false) {
            false => Residual::None,
            true if inputs == outputs => Residual::Same,
            true => Residual::Projected(fit("residual.weight", &[outputs, inputs])?),
        };
        Ok(Dense { weight, bias, activation, residual, inputs, outputs })
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The layer over one vector of [`Dense::inputs`] numbers.
    pub(crate) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y: Vec<f32> = self.weight.chunks_exact(self.inputs.max(1)).map(|row| dot(row, x)).collect();
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y.iter_mut().for_each(|y| *y = self.activation.apply(*y));
        match &self.residual {
            Residual::None => {}
            Residual::Same => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
            Residual::Projected(weight) => {
                y.iter_mut().zip(weight.chunks_exact(self.inputs.max(1))).for_each(|(y, row)| *y += dot(row, x));
            }
        }
        y
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, which the compiler puts into one register.
    let mut sums = [0f32; 8];
    let (whole_a, rest_a) = a.as_chunks::<8>();
    let (whole_b, rest_b) = b.as_chunks::<8>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for at in 0..8 {
            sums[at] += a[at] * b[at];
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// A tensor's numbers; `None` for a type that is no float.
fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    // Views may be unaligned, so numbers are read byte by byte.
    let data = view.data();
    Some(match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_multiplies_adds_bends_and_keeps_the_residual() {
        let layer = Dense {
            weight: vec![1.0, 2.0, 0.5, -1.0],
            bias: Some(vec![0.25, 0.0]),
            activation: Activation::Relu,
            residual: Residual::Same,
            inputs: 2,
            outputs: 2,
        };
        // [1*1 + 2*3 + 0.25, max(0.5 - 3, 0)] + [1, 3]
        assert_eq!(layer.apply(&[1.0, 3.0]), [8.25, 3.0]);
        let narrower = Dense { residual: Residual::Projected(vec![1.0, 0.0, 0.0, 1.0]), ..layer };
        assert_eq!(narrower.apply(&[1.0, 3.0]), [8.25, 3.0]);
    }

    #[test]
    fn long_vectors_are_summed_whole() {
        let a: Vec<f32> = (0..21).map(|at| at as f32).collect();
        assert_eq!(dot(&a, &a), (0..21).map(|at| (at * at) as f32).sum::<f32>());
    }

    #[test]
    fn activations_are_the_usual_ones() {
        // Of Python's math.erf: gelu(1) and gelu(-0.5).
        assert!((Activation::Gelu.apply(1.0) - 0.841_344_7).abs() < 1e-6);
        assert!((Activation::Gelu.apply(-0.5) + 0.154_268_77).abs() < 1e-6);
        assert!((Activation::Silu.apply(1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(Activation::read("torch.nn.modules.linear.Identity"), Some(Activation::Identity));
        assert_eq!(Activation::read("torch.nn.Mish"), None);
    }
}
