//! Which transformation stands before and after a version's session, by the files beside
//! its graph.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nobat_text::{Reading, SIDE_FILES, TextFolder, TextModel, TextSettings};
use nobat_transform::Transform;

use super::scan::FoundVersion;
use crate::engine::onnx::Description;

/// A transformation that fits its graph.
pub(crate) struct OpenedTransform {
    pub(crate) transform: Arc<dyn Transform>,
    /// Whether a row's answer stays the same beside longer ones.
    pub(crate) lengths_mix: bool,
}

/// The model file that is served: in a Hugging Face folder the variant that the settings name.
///
/// # Errors
/// One line: the file is not there, which others are, and the setting.
pub(crate) fn graph(found: &FoundVersion, settings: &TextSettings) -> Result<PathBuf, String> {
    let Some(folder) = &found.text_folder else { return Ok(found.file.clone()) };
    // A file that was named is the one that is served.
    if settings.variant.is_none() && found.file.is_file() {
        return Ok(found.file.clone());
    }
    nobat_text::graph_file(folder, settings.variant.as_deref()).map(|graph| graph.path).map_err(|error| error.message)
}

/// What makes texts of a Hugging Face folder's model; none where the folder says no task that
/// is known, which is logged.
///
/// # Errors
/// One line: what in the folder does not fit, and the remedy.
pub(crate) fn open(
    model: &str,
    found: &FoundVersion,
    settings: &TextSettings,
    graph: &Description,
) -> Result<Option<OpenedTransform>, String> {
    let Some(folder) = &found.text_folder else { return Ok(None) };
    let text = match TextFolder::read(folder, settings).map_err(|error| error.message)? {
        Reading::Text(folder) => TextModel::new(*folder, &graph.inputs, &graph.outputs, settings),
        Reading::Tensors(why) => {
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
    Ok(Some(OpenedTransform { transform: Arc::new(text), lengths_mix }))
}

/// The files that change a text model's answers, beside its graph, in the order of their paths.
pub(crate) fn side_files(found: &FoundVersion) -> Vec<PathBuf> {
    let Some(folder) = &found.text_folder else { return Vec::new() };
    let own = SIDE_FILES.iter().map(|name| folder.join(name)).filter(|file| file.is_file());
    // `1_Pooling`, `2_Dense`: what follows the graph.
    let is_module = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_dir() && name.contains('_') && name.starts_with(|first: char| first.is_ascii_digit())
    };
    let mut files: Vec<PathBuf> = own
        .chain(
            listed(folder)
                .into_iter()
                .filter(is_module)
                .flat_map(|module| listed(&module).into_iter().filter(|file| file.is_file()).collect::<Vec<_>>()),
        )
        .collect();
    files.sort();
    files
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
