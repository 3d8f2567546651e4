//! The session's input that nobat-image makes of pictures, without a session.
//!
//! `image_tensors FOLDER SHAPE PICTURES OUT` prepares every file in PICTURES as the model in FOLDER whose
//! graph takes FP32 of SHAPE (`3x224x224`, `0` for an open axis), and writes each tensor into OUT under the
//! file's name: its four dimensions as i64, then its numbers. `scripts/image_parity` compares them with
//! Pillow and the reference processors. A picture that is refused is told on standard error.

use std::collections::BTreeMap;
use std::path::Path;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_image::{Graph, ImageModel, Reading};
use nobat_transform::{Row, Transform};
use smallvec::smallvec;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, shape, pictures, out] = &arguments[..] else {
        return Err("image_tensors FOLDER SHAPE PICTURES OUT".into());
    };
    let model = read(Path::new(folder), shape)?;
    for entry in std::fs::read_dir(pictures)? {
        let path = entry?.path();
        let mut data = Vec::new();
        put_bytes_element(&mut data, &std::fs::read(&path)?);
        let image = Tensor { name: "image".into(), datatype: Datatype::Bytes, shape: smallvec![1], data: data.into() };
        let name = path.file_name().unwrap_or_default();
        let prepared = match model.prepare(&[Some(image)], &Parameters::default()) {
            Ok(prepared) => prepared,
            Err(error) => {
                eprintln!("{}: {}", name.display(), error.message);
                continue;
            }
        };
        let rows: Vec<&Row> = prepared.rows.iter().collect();
        let inputs = model.collate(&rows).map_err(|error| error.message)?;
        let pixels = inputs.first().ok_or("no input")?;
        let mut bytes: Vec<u8> = pixels.shape.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        bytes.extend_from_slice(&pixels.data);
        std::fs::write(Path::new(out).join(name), bytes)?;
    }
    Ok(())
}

fn read(folder: &Path, shape: &str) -> Result<ImageModel, Failure> {
    let mut dims = vec![-1];
    for side in shape.split('x') {
        let side: i64 = side.parse()?;
        dims.push(if side == 0 { -1 } else { side });
    }
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        optional: false,
    };
    let (inputs, outputs) = ([spec("pixel_values", &dims)], [spec("logits", &[-1, -1])]);
    let (metadata, operators) = (BTreeMap::new(), BTreeMap::new());
    let graph = Graph { inputs: &inputs, outputs: &outputs, metadata: &metadata, operators: &operators };
    match ImageModel::read(Some(folder), graph, None).map_err(|error| error.message)? {
        Reading::Pictures(model) => Ok(*model),
        Reading::Tensors(why) => Err(why.into()),
    }
}
