//! Which transformation stands before and after a version's session, by its settings and the files
//! beside its graph.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nobat_core::signature::TensorSpec;
use nobat_image::{BytesModel, BytesSettings, ImageModel};
use nobat_text::{SIDE_FILES, TextFolder, TextModel, TextSettings};
use nobat_transform::{Towers, Transform};

use super::scan::FoundVersion;
use super::settings::ModelSettings;
use crate::engine::classes::operators;
use crate::engine::onnx::Description;
use crate::engine::towers::{OF_PICTURES, OF_TEXTS};

/// What likeness is multiplied by in CLIP as its makers trained it: the most that they allowed.
const CLIP_SCALE: f64 = 100.0;

/// A transformation that fits its graph.
pub(crate) struct OpenedTransform {
    pub(crate) transform: Arc<dyn Transform>,
    /// Whether a row's answer stays the same beside longer ones.
    pub(crate) lengths_mix: bool,
    /// Whether its rows are of two kinds, each on an axis of its own.
    pub(crate) has_towers: bool,
    /// How texts or pictures are prepared and answered, and what of it is guessed; a line each, for people.
    pub(crate) found: Vec<String>,
}

/// The version with the model file that is served: in a Hugging Face folder the variant that the settings
/// name, or both files of one that has its towers apart.
///
/// # Errors
/// One line: the file is not there, which others are, and the setting.
pub(crate) fn graphs(found: &FoundVersion, settings: &ModelSettings) -> Result<FoundVersion, String> {
    let of = |file: PathBuf, pictures| FoundVersion { file, pictures, ..found.clone() };
    let Some(folder) = &found.text_folder else { return Ok(found.clone()) };
    let variant = settings.image.as_ref().and_then(|image| image.variant.as_deref());
    let variant = variant.or(settings.text.variant.as_deref());
    // A file that was named is the one that is served.
    if variant.is_none() && found.file.is_file() {
        return Ok(found.clone());
    }
    let tower = |name: &str| {
        let name = variant.map_or_else(|| name.to_owned(), |variant| format!("{name}_{variant}"));
        nobat_text::graph_file(folder, Some(&name)).ok().map(|graph| graph.path)
    };
    match nobat_text::graph_file(folder, variant) {
        Ok(graph) => Ok(of(graph.path, None)),
        Err(error) => match (tower("text_model"), tower("vision_model")) {
            (Some(texts), Some(pictures)) if found.image_folder.is_some() => Ok(of(texts, Some(pictures))),
            (Some(_), Some(_)) => Err(format!(
                "`{}` has its towers in two files and no preprocessor_config.json, with which they are one model of \
                 texts and pictures; save it: AutoProcessor.from_pretrained(MODEL).save_pretrained(FOLDER), or name one \
                 of the files: `variant = \"text_model\"` in `[text]` of model.toml",
                folder.display()
            )),
            _ => Err(error.message),
        },
    }
}

/// What makes pictures or texts of a model; none where callers send the graph's own tensors, which is
/// logged where its files look otherwise.
///
/// # Errors
/// One line: what in the files and settings does not fit, and the remedy.
pub(crate) fn open(
    model: &str,
    found: &FoundVersion,
    settings: &ModelSettings,
    graph: &Description,
) -> Result<Option<OpenedTransform>, String> {
    if let Some(settings) = &settings.bytes {
        return files(model, found, settings, graph).map(Some);
    }
    if found.pictures.is_some() {
        return apart(model, found, settings, graph);
    }
    if let Some(scale) = settings.image.as_ref().and_then(|image| image.logit_scale) {
        return Err(format!(
            "`logit_scale` in `[image]` is {scale}, and it is for models with their towers in two files, \
             `text_model.onnx` and `vision_model.onnx`; leave it out"
        ));
    }
    // A folder with a processor may be a text model's as well: of several towers, each with its graph.
    let takes_pictures = || graph.inputs.iter().any(|input| input.shape.len() == 4);
    if let (Some(folder), Some(_)) = (&found.text_folder, &found.image_folder)
        && ["image_embeds", "text_embeds"].iter().all(|name| graph.outputs.iter().any(|output| output.name == *name))
        && takes_pictures()
        && graph.inputs.iter().any(|input| input.name == "input_ids")
    {
        return towers(model, found, folder, settings, graph, None);
    }
    if settings.image.is_some() || (found.image_folder.is_some() && takes_pictures()) {
        return pictures(model, found, settings, graph);
    }
    texts(model, found, &settings.text, graph)
}

/// Two graphs, of which neither says what a whole one does: the length of vectors, and how alike texts and
/// pictures are.
fn apart(
    model: &str,
    found: &FoundVersion,
    settings: &ModelSettings,
    graph: &Description,
) -> Result<Option<OpenedTransform>, String> {
    let Some(folder) = &found.text_folder else { return Ok(None) };
    let mut settings = settings.clone();
    let image = settings.image.get_or_insert_default();
    let family = TextFolder::family(folder).unwrap_or_default();
    let normalizes = image.normalize.is_none() && settings.text.normalize.is_none();
    let mut apart = Apart { scale: None, normalizes, lines: vec!["a graph of texts and one of pictures".to_owned()] };
    if normalizes {
        apart.lines.push("vectors have length 1, as a graph of both gives them".to_owned());
    }
    image.normalize.get_or_insert(true);
    settings.text.normalize.get_or_insert(true);
    // SigLIP's are those that its towers pool, of one name.
    for (output, prefix) in [(&mut settings.text.output, OF_TEXTS), (&mut image.output, OF_PICTURES)] {
        let pooled = format!("{prefix}pooler_output");
        if family.starts_with("siglip") && graph.outputs.iter().any(|own| own.name == pooled) {
            output.get_or_insert(pooled);
        }
    }
    apart.scale = image.logit_scale;
    if apart.scale.is_none() && family.contains("clip") {
        apart.scale = Some(CLIP_SCALE);
        apart.lines.push(format!(
            "likeness is scaled by {CLIP_SCALE}, a guess: CLIP's makers trained it so far, and `logit_scale` in \
             `[image]` says otherwise"
        ));
    }
    towers(model, found, folder, &settings, graph, Some(apart))
}

/// What is known of towers in two files.
struct Apart {
    /// What the cosine of a picture and a text is multiplied by.
    scale: Option<f64>,
    /// Whether vectors get length 1 without a word of their owner's.
    normalizes: bool,
    /// For people.
    lines: Vec<String>,
}

/// Graphs that take texts and pictures: a transformation for each, over the inputs of its own.
fn towers(
    model: &str,
    found: &FoundVersion,
    folder: &Path,
    settings: &ModelSettings,
    graph: &Description,
    apart: Option<Apart>,
) -> Result<Option<OpenedTransform>, String> {
    let (of_pictures, of_texts): (Vec<TensorSpec>, Vec<TensorSpec>) =
        graph.inputs.iter().cloned().partition(|input| matches!(input.shape.len(), 3 | 4));
    let operators = operators(found.pictures.as_ref().unwrap_or(&found.file));
    let described = nobat_image::Graph {
        inputs: &of_pictures,
        outputs: &graph.outputs,
        metadata: &graph.metadata,
        operators: &operators,
    };
    let as_tensors = |why: String| match &apart {
        // Both graphs' tensors under one name would be a model that nobody exported.
        Some(_) => Err(format!(
            "its towers are in two files, which serve as one model of texts and pictures alone: {why}; name one of \
             the files as `variant` in model.toml"
        )),
        None => {
            log::warn!(model; "model `{model}` takes its graph's tensors: {why}");
            Ok(None)
        }
    };
    let image = image_folder(found, settings);
    let pictures = match ImageModel::read(image.as_deref(), described, settings.image.as_ref()) {
        Ok(nobat_image::Reading::Pictures(pictures)) => *pictures,
        Ok(nobat_image::Reading::Tensors(why)) => return as_tensors(why),
        Err(error) => return Err(error.message),
    };
    let texts = match TextFolder::read(folder, &settings.text).map_err(|error| error.message)? {
        nobat_text::Reading::Text(read) => TextModel::new(*read, &of_texts, &graph.outputs, &settings.text),
        nobat_text::Reading::Tensors(why) => return as_tensors(why),
    };
    let texts = texts.map_err(|error| error.message)?;
    let mut lines: Vec<String> = apart.iter().flat_map(|own| own.lines.clone()).collect();
    // What was set for both is said once.
    let said = |line: &&String| apart.as_ref().is_some_and(|own| own.normalizes) && line.starts_with("vectors ");
    lines.extend(texts.found().iter().filter(|line| !said(line)).map(|line| format!("texts: {line}")));
    lines.extend(pictures.found().iter().map(|line| format!("pictures: {line}")));
    log::info!(model; "model `{model}` takes texts and pictures: {}", lines.join("; "));
    let lengths_mix = texts.rows_may_differ_in_length() && pictures.rows_may_differ_in_size();
    if !lengths_mix {
        log::warn!(model; "rows of model `{model}` run one by one: its graph is not told what is padding");
    }
    let family = texts.family().map(str::to_owned);
    let (texts, pictures) = (Arc::new(texts), Arc::new(pictures));
    let both = match &apart {
        Some(own) => Towers::apart(texts, pictures, &graph.inputs, own.scale.map(|scale| scale as f32)),
        None => Towers::new(texts, pictures, &graph.inputs, &graph.outputs, family.as_deref()),
    };
    let transform = Arc::new(both.map_err(|error| error.message)?);
    Ok(Some(OpenedTransform { transform, lengths_mix, has_towers: true, found: lines }))
}

fn pictures(
    model: &str,
    found: &FoundVersion,
    settings: &ModelSettings,
    graph: &Description,
) -> Result<Option<OpenedTransform>, String> {
    let operators = operators(&found.file);
    let described = nobat_image::Graph {
        inputs: &graph.inputs,
        outputs: &graph.outputs,
        metadata: &graph.metadata,
        operators: &operators,
    };
    let folder = image_folder(found, settings);
    match ImageModel::read(folder.as_deref(), described, settings.image.as_ref()).map_err(|error| error.message)? {
        nobat_image::Reading::Tensors(why) => {
            log::warn!(model; "model `{model}` takes its graph's tensors: {why}");
            Ok(None)
        }
        nobat_image::Reading::Pictures(pictures) => {
            let task = pictures.task().as_str();
            log::info!(model, task; "model `{model}` takes pictures ({task}): {}", pictures.found().join("; "));
            let lengths_mix = pictures.rows_may_differ_in_size();
            if !lengths_mix {
                log::warn!(model; "pictures of model `{model}` run one by one: each keeps a size of its own");
            }
            let found = pictures.found().to_vec();
            Ok(Some(OpenedTransform { transform: Arc::new(*pictures), lengths_mix, has_towers: false, found }))
        }
    }
}

fn files(
    model: &str,
    found: &FoundVersion,
    settings: &BytesSettings,
    graph: &Description,
) -> Result<OpenedTransform, String> {
    let folder = folder_with(found, &nobat_image::BYTES_FILES);
    let files = BytesModel::read(folder.as_deref(), &graph.inputs, &graph.outputs, settings);
    let files = files.map_err(|error| error.message)?;
    log::info!(model; "model `{model}` takes files: {}", files.found().join("; "));
    let found = files.found().to_vec();
    Ok(OpenedTransform { transform: Arc::new(files), lengths_mix: true, has_towers: false, found })
}

fn texts(
    model: &str,
    found: &FoundVersion,
    settings: &TextSettings,
    graph: &Description,
) -> Result<Option<OpenedTransform>, String> {
    let Some(folder) = &found.text_folder else { return Ok(None) };
    let text = match TextFolder::read(folder, settings).map_err(|error| error.message)? {
        nobat_text::Reading::Text(folder) => TextModel::new(*folder, &graph.inputs, &graph.outputs, settings),
        nobat_text::Reading::Tensors(why) => {
            log::warn!(model; "model `{model}` takes its graph's tensors: {why}");
            return Ok(None);
        }
    };
    let text = text.map_err(|error| error.message)?;
    let file = found.file.strip_prefix(folder).unwrap_or(&found.file).display().to_string();
    let task = text.signature().task.kind.as_str();
    log::info!(model, task, file; "model `{model}` takes texts (task {task}, {file}): {}", text.found().join("; "));
    let lengths_mix = text.rows_may_differ_in_length();
    if !lengths_mix {
        log::warn!(model; "texts of model `{model}` run one by one: its graph is not told what is padding");
    }
    let found = text.found().to_vec();
    Ok(Some(OpenedTransform { transform: Arc::new(text), lengths_mix, has_towers: false, found }))
}

/// The files that change a transformed model's answers, beside its graph, in the order of their paths.
pub(crate) fn side_files(found: &FoundVersion, settings: &ModelSettings) -> Vec<PathBuf> {
    let mut files = text_files(found);
    if let Some(folder) = image_folder(found, settings) {
        let characters = settings.image.as_ref().and_then(|image| image.characters.as_deref());
        let names = nobat_image::SIDE_FILES.into_iter().chain(characters);
        files.extend(names.map(|name| folder.join(name)).filter(|file| file.is_file()));
    }
    if settings.bytes.is_some()
        && let Some(folder) = folder_with(found, &nobat_image::BYTES_FILES)
    {
        files.extend(nobat_image::BYTES_FILES.map(|name| folder.join(name)).into_iter().filter(|file| file.is_file()));
    }
    files.sort();
    files.dedup();
    files
}

fn text_files(found: &FoundVersion) -> Vec<PathBuf> {
    let Some(folder) = &found.text_folder else { return Vec::new() };
    let own = SIDE_FILES.iter().map(|name| folder.join(name)).filter(|file| file.is_file());
    // `1_Pooling`, `2_Dense`: what follows the graph.
    let is_module = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_dir() && name.contains('_') && name.starts_with(|first: char| first.is_ascii_digit())
    };
    own.chain(
        listed(folder)
            .into_iter()
            .filter(is_module)
            .flat_map(|module| listed(&module).into_iter().filter(|file| file.is_file()).collect::<Vec<_>>()),
    )
    .collect()
}

/// Where a picture model's labels, characters and processor are: with the processor, else beside the graph,
/// or above its version's folder.
fn image_folder(found: &FoundVersion, settings: &ModelSettings) -> Option<PathBuf> {
    if found.image_folder.is_some() {
        return found.image_folder.clone();
    }
    let image = settings.image.as_ref()?;
    let names: Vec<&str> = nobat_image::SIDE_FILES.into_iter().chain(image.characters.as_deref()).collect();
    folder_with(found, &names)
}

/// The folder beside a graph with one of these files: its own, or the one above its version's.
fn folder_with(found: &FoundVersion, names: &[&str]) -> Option<PathBuf> {
    let own = found.file.parent()?;
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let is_version = name == "onnx" || name.trim_start_matches('v').bytes().all(|byte| byte.is_ascii_digit());
    let above = own.parent().filter(|_| is_version);
    let holds = |folder: &&Path| names.iter().any(|name| folder.join(name).is_file());
    Some([Some(own), above].into_iter().flatten().find(holds).unwrap_or(own).to_owned())
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
