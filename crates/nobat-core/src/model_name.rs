//! The one rule for a model's name, wherever it comes from: a file, a command, a path.
//!
//! A name stands in paths of every protocol, in keys of the store and in logs. It may
//! be any text that is one segment of a path once it is percent-encoded; what could be
//! a path of files, or be taken for a part of a protocol's own, is no name.

/// Most bytes of a name.
pub const MAX_LEN: usize = 200;

/// Why a text is no model name, as the end of a sentence about it; `None` when it is.
pub fn objection(name: &str) -> Option<String> {
    let forbidden = |letter: char| letter.is_control() || matches!(letter, '/' | '\\' | ':');
    if name.is_empty() || name.len() > MAX_LEN {
        return Some(format!("a model name has 1 to {MAX_LEN} bytes"));
    }
    if let Some(letter) = name.chars().find(|&letter| forbidden(letter)) {
        return Some(format!("a model name has no {letter:?}; slashes, `:` and control characters are for paths"));
    }
    if name.starts_with('.') || name.contains("..") {
        return Some("a model name neither begins with a dot nor has two in a row".into());
    }
    (name.trim() != name).then(|| "a model name has no space at its ends".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_of_one_segment_is_a_name() {
        for name in
            ["digits", "resnet50.v2", "_m", "m-1_x", "a+b", "per%cent", "a%2Fb", "naïve-模型", "tilde~1", "a b", "é"]
        {
            assert_eq!(objection(name), None, "{name}");
        }
        assert_eq!(objection(&"x".repeat(MAX_LEN)), None);
    }

    #[test]
    fn what_could_be_a_path_is_none() {
        let long = "x".repeat(MAX_LEN + 1);
        for name in [
            "",
            "..",
            ".",
            "a/b",
            "../../etc/passwd",
            "a\\b",
            "a\0b",
            ".hidden",
            "a..b",
            "a:predict",
            " a",
            "a\n",
            &long,
        ] {
            assert!(objection(name).is_some(), "{name:?}");
        }
    }
}
