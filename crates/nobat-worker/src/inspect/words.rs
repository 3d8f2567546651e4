//! Words that a model's maker wrote, as a line shows them.

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

    proptest! {
        #[test]
        fn a_line_has_no_signs_that_a_terminal_obeys(text: String) {
            assert!(!short(&text).chars().any(char::is_control));
        }
    }
}
