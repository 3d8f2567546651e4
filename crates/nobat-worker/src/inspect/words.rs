//! Words that a model's maker wrote: Python's literals of names, and JSON.

use serde_json::Value;

/// The names in a Python or JSON literal such as `{0: 'person', 1: "bicycle"}` or
/// `['a', 'b']`, in their order; none where it is something else. JSON's keys are no names.
pub(super) fn names(literal: &str) -> Vec<String> {
    if let Ok(value) = serde_json::from_str::<Value>(literal) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        return match value {
            Value::Array(items) => items.iter().filter_map(text).collect(),
            Value::Object(members) => members.values().filter_map(text).collect(),
            _ => Vec::new(),
        };
    }
    let literal = literal.trim();
    if !literal.starts_with(['{', '[', '(']) {
        return Vec::new();
    }
    let mut names = Vec::new();
    let mut rest = literal.chars();
    while let Some(quote) = rest.by_ref().find(|character| matches!(character, '\'' | '"')) {
        let mut name = String::new();
        loop {
            match rest.next() {
                Some('\\') => name.extend(rest.next()),
                Some(character) if character == quote => break,
                Some(character) => name.push(character),
                None => return names,
            }
        }
        names.push(name);
    }
    names
}

/// The whole numbers in a literal such as `[640, 640]` or `32`.
pub(super) fn numbers(literal: &str) -> Vec<u32> {
    literal.split(|character: char| !character.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// A text short enough for a line.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 80;
    let line: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(MOST).collect();
    if text.chars().nth(MOST).is_some() { format!("{line}… ({} characters)", text.chars().count()) } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_python_and_as_json_writes_them() {
        assert_eq!(names("{0: 'person', 1: \"it's\", 2: 'a\\'b'}"), ["person", "it's", "a'b"]);
        assert_eq!(names(r#"{"0": "cat", "1": "dog"}"#), ["cat", "dog"]);
        assert_eq!(names("['a', 'b']"), ["a", "b"]);
        assert!(names("detect").is_empty() && names("{0: 'cut").is_empty());
        assert_eq!(numbers("[640, 480]"), [640, 480]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (names(&text), numbers(&text), short(&text));
        }
    }
}
