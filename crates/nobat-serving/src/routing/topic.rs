//! Topic patterns as AMQP 0-9-1 defines them (section 3.1.3.3): words between
//! dots, `*` for exactly one word, `#` for any number of words, none included.
//! All dots of a key count, so `a..b` has an empty word in the middle; a key
//! without any character has no word at all.

use std::fmt;
use std::str::FromStr;

use nobat_core::Error;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A parsed topic pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SmolStr", into = "SmolStr")]
pub struct Pattern {
    text: SmolStr,
    words: Vec<Word>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Exactly(SmolStr),
    One,
    Any,
}

impl Pattern {
    /// Whether a routing key matches.
    ///
    /// # Complexity
    /// Words of the key times words of the pattern at worst; no recursion.
    pub fn matches(&self, key: &str) -> bool {
        let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
        let (mut at_key, mut at_word) = (0, 0);
        // Where the last `#` stands and how much of the key it has taken: on a
        // mismatch it takes one word more. An earlier `#` need not be revisited,
        // a later one can take everything it could.
        let mut last_any: Option<(usize, usize)> = None;
        while at_key < key.len() {
            match self.words.get(at_word) {
                Some(Word::Any) => {
                    last_any = Some((at_word, at_key));
                    at_word += 1;
                }
                Some(Word::One) => (at_key, at_word) = (at_key + 1, at_word + 1),
                Some(Word::Exactly(word)) if word == key[at_key] => (at_key, at_word) = (at_key + 1, at_word + 1),
                _ => {
                    let Some((any, taken)) = last_any else { return false };
                    last_any = Some((any, taken + 1));
                    (at_key, at_word) = (taken + 1, any + 1);
                }
            }
        }
        self.words[at_word..].iter().all(|word| *word == Word::Any)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern, Error> {
        let refuse = |why: String| Err(Error::invalid(format!("topic `{text}` {why}")));
        let mut words = Vec::new();
        for word in text.split('.') {
            words.push(match word {
                "" => {
                    return refuse("has an empty word; write words between single dots, such as `vision.*.v2`".into());
                }
                "*" => Word::One,
                "#" => Word::Any,
                word if word.contains(['*', '#']) => {
                    return refuse(format!(
                        "has `{word}`; `*` and `#` stand for whole words, write them alone between dots"
                    ));
                }
                word => Word::Exactly(word.into()),
            });
        }
        Ok(Pattern { text: text.into(), words })
    }
}

impl TryFrom<SmolStr> for Pattern {
    type Error = Error;

    fn try_from(text: SmolStr) -> Result<Pattern, Error> {
        text.parse()
    }
}

impl From<Pattern> for SmolStr {
    fn from(pattern: Pattern) -> SmolStr {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word: try every split at every `#`.
    fn reference(pattern: &[&str], key: &[&str]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ["#", rest @ ..] => (0..=key.len()).any(|taken| reference(rest, &key[taken..])),
            ["*", rest @ ..] => !key.is_empty() && reference(rest, &key[1..]),
            [word, rest @ ..] => key.first() == Some(word) && reference(rest, &key[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn matching_equals_the_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "vision", "*", "#"]), 1..7),
            key in prop::collection::vec(prop::sample::select(vec!["a", "b", "vision", ""]), 0..8),
        ) {
            let text = key.join(".");
            // A key of one empty word is the empty key, which has no word.
            let words: Vec<&str> = if text.is_empty() { vec![] } else { text.split('.').collect() };
            let parsed: Pattern = pattern.join(".").parse().expect("valid words");
            prop_assert_eq!(parsed.matches(&text), reference(&pattern, &words));
        }
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        let matches = |pattern: &str, key: &str| pattern.parse::<Pattern>().expect("a pattern").matches(key);
        assert!(matches("*.stock.#", "usd.stock"));
        assert!(matches("*.stock.#", "eur.stock.db"));
        assert!(!matches("*.stock.#", "stock.nasdaq"));
        assert!(matches("#", ""));
        assert!(!matches("*", ""));
    }

    #[test]
    fn half_wildcards_and_empty_words_are_refused_with_the_remedy() {
        let refused = |text: &str| text.parse::<Pattern>().expect_err("no pattern").message;
        assert!(refused("vi*ion.v2").contains("has `vi*ion`; `*` and `#` stand for whole words"));
        assert!(refused("vision..v2").contains("topic `vision..v2` has an empty word"));
        assert!(refused("").contains("has an empty word"));
    }
}
