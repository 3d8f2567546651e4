//! `config.min.json` and `content_types_kb.min.json`, as magika has them beside its graph.

use std::collections::BTreeMap;

use nobat_core::{Error, Result};
use serde::Deserialize;

use crate::folder::ImageFolder;

/// Files whose change changes the answers of a model of files, beside its graph.
pub const BYTES_FILES: [&str; 3] = ["config.min.json", "content_types_kb.min.json", "labels.txt"];

/// What magika says of its graph.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct MagikaConfig {
    pub(crate) beg_size: usize,
    pub(crate) end_size: usize,
    pub(crate) padding_token: u16,
    pub(crate) block_size: usize,
    pub(crate) min_file_size_for_dl: usize,
    pub(crate) target_labels_space: Vec<String>,
    medium_confidence_threshold: f64,
    #[serde(default)]
    mid_size: usize,
    #[serde(default)]
    use_inputs_at_offsets: bool,
    #[serde(default)]
    thresholds: BTreeMap<String, f64>,
    #[serde(default)]
    overwrite_map: BTreeMap<String, String>,
}

/// One of the types that magika knows of.
#[derive(Deserialize)]
struct ContentType {
    is_text: bool,
}

/// What becomes of the best label: one that is not sure enough is `txt` or `unknown`.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    thresholds: BTreeMap<String, f64>,
    default_threshold: f64,
    renamed: BTreeMap<String, String>,
    is_text: BTreeMap<String, bool>,
}

impl MagikaConfig {
    /// # Errors
    /// A file that is not what its name says, or asks for more than the ends of a file.
    pub(crate) fn read(folder: &ImageFolder) -> Result<Option<MagikaConfig>> {
        let Some(config) = folder.json::<MagikaConfig>("config.min.json")? else { return Ok(None) };
        if config.mid_size > 0 || config.use_inputs_at_offsets {
            return Err(Error::invalid(
                "`config.min.json` takes bytes out of the middle of files, and their first and last are what is given; \
                 serve the graph without `[bytes]` in model.toml, for its own tensors",
            ));
        }
        Ok(Some(config))
    }

    /// The rules for its best label; none without the list of types.
    ///
    /// # Errors
    /// A list that cannot be read.
    pub(crate) fn rules(&self, folder: &ImageFolder) -> Result<Option<Rules>> {
        let types = folder.json::<BTreeMap<String, ContentType>>("content_types_kb.min.json")?;
        Ok(types.map(|types| Rules {
            thresholds: self.thresholds.clone(),
            default_threshold: self.medium_confidence_threshold,
            renamed: self.overwrite_map.clone(),
            is_text: types.into_iter().map(|(name, known)| (name, known.is_text)).collect(),
        }))
    }
}

impl Rules {
    /// The answer where `label` scored best.
    pub(crate) fn label<'a>(&'a self, label: &'a str, score: f32) -> &'a str {
        let named = self.renamed.get(label).map_or(label, String::as_str);
        if f64::from(score) >= self.thresholds.get(label).copied().unwrap_or(self.default_threshold) {
            return named;
        }
        if self.is_text.get(named).copied().unwrap_or(false) { "txt" } else { "unknown" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_not_sure_enough_is_a_text_or_unknown() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        let config = r#"{"beg_size": 8, "mid_size": 0, "end_size": 8, "padding_token": 256, "block_size": 64,
            "min_file_size_for_dl": 4, "medium_confidence_threshold": 0.5, "target_labels_space": ["a", "b", "c"],
            "thresholds": {"a": 0.9}, "overwrite_map": {"c": "unknown"}}"#;
        write("config.min.json", config);
        let read = ImageFolder::at(Some(folder.path()));
        let own = MagikaConfig::read(&read).expect("reads").expect("is there");
        assert!(own.rules(&read).expect("reads").is_none(), "no list of types");
        write("content_types_kb.min.json", r#"{"a": {"is_text": true, "group": "x"}, "b": {"is_text": false}}"#);
        let rules = own.rules(&read).expect("reads").expect("rules");
        let cases =
            [("a", 0.95, "a"), ("a", 0.8, "txt"), ("b", 0.8, "b"), ("b", 0.4, "unknown"), ("c", 0.9, "unknown")];
        for (label, score, answer) in cases {
            assert_eq!(rules.label(label, score), answer, "{label} {score}");
        }
        write("config.min.json", &config.replace("\"mid_size\": 0", "\"mid_size\": 4"));
        assert!(MagikaConfig::read(&read).expect_err("the middle").message.contains("middle"));
    }
}
