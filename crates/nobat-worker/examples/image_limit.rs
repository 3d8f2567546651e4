//! What one thread can do at most with pictures: decode, resize and run, and nothing else.
//!
//! `image_limit LIBRARY MODEL FOLDER SECONDS` reads FOLDER's JPEG files, decodes each in turn, makes 224 x 224
//! pixels of it, and runs MODEL, whose one input is FP32 of `[N, 3, 224, 224]`, on one thread of ONNX Runtime
//! (LIBRARY is its shared library). Prints pictures a second. `scripts/bench_images` runs as many as there are
//! cores, and calls their sum the limit of a server.

use std::time::{Duration, Instant};

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use ort::session::Session;
use ort::value::TensorRef;

type Failure = Box<dyn std::error::Error>;

const SIDE: u32 = 224;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, model, folder, seconds] = &arguments[..] else {
        return Err("image_limit LIBRARY MODEL FOLDER SECONDS".into());
    };
    let length = Duration::from_secs_f64(seconds.parse()?);
    let environment = ort::init_from(library)?.with_name("limit").with_telemetry(false).build()?;
    let builder = Session::builder(&environment).map_err(|error| error.to_string())?;
    let builder = builder.with_intra_threads(1).map_err(|error| error.to_string())?;
    let mut builder = builder.with_intra_op_spinning(false).map_err(|error| error.to_string())?;
    let mut session = builder.commit_from_file(model)?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jpg"));
    files.sort();
    let pictures: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    if pictures.is_empty() {
        return Err(format!("{folder} has no .jpg").into());
    }
    let mut resizer = Resizer::new();
    let mut one = |bytes: &[u8]| run(bytes, &mut resizer, &mut session);
    one(&pictures[0])?;
    let begun = Instant::now();
    let mut count = 0usize;
    while begun.elapsed() < length {
        one(&pictures[count % pictures.len()])?;
        count += 1;
    }
    println!("{:.2}", count as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

fn run(bytes: &[u8], resizer: &mut Resizer, session: &mut Session) -> Result<(), Failure> {
    let picture = image::load_from_memory_with_format(bytes, image::ImageFormat::Jpeg)?.into_rgb8();
    let source = TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.as_raw())?;
    let mut small = vec![0u8; (SIDE * SIDE * 3) as usize];
    let mut target = TypedImage::<U8x3>::from_buffer(SIDE, SIDE, &mut small)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    resizer.resize_typed(&source, &mut target, &options)?;
    drop(target);
    let plane = (SIDE * SIDE) as usize;
    let mut numbers = vec![0f32; plane * 3];
    for (at, pixel) in small.as_chunks::<3>().0.iter().enumerate() {
        for (channel, &value) in pixel.iter().enumerate() {
            numbers[channel * plane + at] = f32::from(value) / 127.5 - 1.0;
        }
    }
    let shape = [1usize, 3, SIDE as usize, SIDE as usize];
    session.run(ort::inputs![TensorRef::from_array_view((shape, numbers.as_slice()))?])?;
    Ok(())
}
