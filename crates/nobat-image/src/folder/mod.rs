//! What the files beside a graph say of pictures: processor, configuration, labels, characters.
//!
//! Read once, beneath the folder only, and bounded.

pub(crate) mod processor_config;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use nobat_core::{Error, Result, clip};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use processor_config::ProcessorConfig;

/// Files whose change changes a picture model's answers, beside its graph.
pub const SIDE_FILES: [&str; 3] = ["config.json", "preprocessor_config.json", "labels.txt"];
/// Most bytes of one of them.
const MOST_BYTES: u64 = 32 << 20;

/// Whether a folder says how its model's pictures are prepared, by a name alone.
pub fn has_processor(folder: &Path) -> bool {
    folder.join("preprocessor_config.json").is_file()
}

/// `config.json`, as far as answers depend on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ModelConfig {
    pub(crate) architectures: Vec<String>,
    pub(crate) model_type: Option<String>,
    pub(crate) id2label: Option<BTreeMap<String, Value>>,
    pub(crate) problem_type: Option<String>,
}

impl ModelConfig {
    /// Labels by number, where the file names them.
    pub(crate) fn labels(&self) -> Option<Vec<String>> {
        let named = self.id2label.as_ref().filter(|named| !named.is_empty())?;
        let mut labels: Vec<String> = (0..named.len()).map(|at| format!("LABEL_{at}")).collect();
        for (at, label) in named {
            let place = at.parse::<usize>().ok().and_then(|at| labels.get_mut(at))?;
            *place = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
        }
        Some(labels)
    }
}

/// The files of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageFolder {
    folder: Option<PathBuf>,
    pub(crate) config: Option<ModelConfig>,
    pub(crate) processor: Option<ProcessorConfig>,
    /// `labels.txt`: a label a line.
    pub(crate) labels: Option<Vec<String>>,
}

impl ImageFolder {
    /// Reads a model's folder; without one there is nothing beside the graph.
    ///
    /// # Errors
    /// A file that is not what its name says.
    pub(crate) fn read(folder: Option<&Path>) -> Result<ImageFolder> {
        let mut read = ImageFolder::at(folder);
        read.config = read.json("config.json")?;
        read.processor = read.json("preprocessor_config.json")?;
        read.labels = read.labels_file()?;
        Ok(read)
    }

    /// A folder of which nothing has been read yet.
    pub(crate) fn at(folder: Option<&Path>) -> ImageFolder {
        ImageFolder { folder: folder.map(Path::to_owned), ..ImageFolder::default() }
    }

    /// `labels.txt`, where it is there.
    ///
    /// # Errors
    /// When it is no text.
    pub(crate) fn labels_file(&self) -> Result<Option<Vec<String>>> {
        self.bytes("labels.txt")?.map(|bytes| lines(&bytes, "labels.txt")).transpose()
    }

    /// The characters in a file of this name: a JSON list, or one a line.
    ///
    /// # Errors
    /// When it is not there, or neither.
    pub(crate) fn characters(&self, name: &str) -> Result<Vec<String>> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let bytes = if plain { self.bytes(name)? } else { None };
        let Some(bytes) = bytes else {
            return Err(Error::invalid(format!(
                "`characters` in `[image]` of model.toml names `{}`, which is not beside the model",
                clip(name)
            )));
        };
        match name.ends_with(".json") {
            true => serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(format!("`{}` is no JSON list of characters: {error}", clip(name)))),
            false => lines(&bytes, name),
        }
    }

    /// A file of JSON, where it is there.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Some)
            .map_err(|error| Error::invalid(format!("`{name}` cannot be read: {error}; save the model again")))
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.is_file()) else {
            return Ok(None);
        };
        let unreadable = |error| Error::invalid(format!("`{}` cannot be read: {error}", path.display()));
        let mut bytes = Vec::new();
        File::open(&path).map_err(unreadable)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::invalid(format!(
                "`{}` has over {MOST_BYTES} bytes, the most that is read",
                path.display()
            )));
        }
        Ok(Some(bytes))
    }
}

/// The lines of a text, none of them trimmed but of a carriage return: a line may be a space.
fn lines(bytes: &[u8], name: &str) -> Result<Vec<String>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::invalid(format!("`{}` is not UTF-8; save it as UTF-8", clip(name))))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_spaces_and_labels_their_numbers() {
        assert_eq!(lines("a\r\n \n\u{3000}\n".as_bytes(), "x").expect("text"), ["a", " ", "\u{3000}"]);
        assert!(lines(b"\xFF", "labels.txt").expect_err("not UTF-8").message.contains("labels.txt"));
        let config: ModelConfig = serde_json::from_str(
            r#"{"id2label": {"10": "k", "0": "a", "1": 7, "2": "c", "3": "d", "4": "e", "5": "f",
                "6": "g", "7": "h", "8": "i", "9": "j"}}"#,
        )
        .expect("JSON");
        let labels = config.labels().expect("labels");
        assert_eq!((labels[1].as_str(), labels[10].as_str()), ("7", "k"));
    }

    #[test]
    fn a_file_of_characters_is_beside_the_model_only() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("set.json"), r#"["", "a"]"#).expect("a file");
        let read = ImageFolder::read(Some(folder.path())).expect("reads");
        assert_eq!(read.characters("set.json").expect("there"), ["", "a"]);
        for name in ["../set.json", "/etc/hostname", "none.txt"] {
            assert!(read.characters(name).expect_err(name).message.contains("not beside the model"));
        }
    }
}
