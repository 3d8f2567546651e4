//! What a model's maker left in the ONNX file's own metadata: Ultralytics' names, sizes and task, and the
//! characters of a text reader.
//!
//! Ultralytics writes Python's literals, which are no JSON: `{0: 'person', 1: "driver's seat"}`.

use std::collections::BTreeMap;

/// Most characters of a key's value that is read.
const MOST: usize = 4 << 20;

/// The keys that are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metadata {
    /// Ultralytics' task: `detect`, `classify`, `segment`, `pose`, `obb`.
    pub(crate) task: Option<String>,
    /// Class names by number.
    pub(crate) names: Option<Vec<String>>,
    /// Height and width.
    pub(crate) size: Option<(u32, u32)>,
    /// Whether it is an Ultralytics export.
    pub(crate) ultralytics: bool,
    /// How many joints a thing has, and numbers of each: 2, or 3 with how sure they are.
    pub(crate) keypoints: Option<(usize, usize)>,
    /// Overlaps are removed in the graph.
    pub(crate) end2end: bool,
    /// A reader's characters, without the blank.
    pub(crate) characters: Option<Vec<String>>,
}

impl Metadata {
    /// Reads the keys; one whose value is not what its maker writes is left out.
    pub(crate) fn read(entries: &BTreeMap<String, String>) -> Metadata {
        let value = |key: &str| entries.get(key).map(String::as_str).filter(|value| value.len() <= MOST);
        let names = value("names").and_then(names);
        let size = value("imgsz").and_then(|text| match Literal::read(text)? {
            Literal::List(sides) => match sides[..] {
                [Literal::Number(height), Literal::Number(width)] => Some((side(height)?, side(width)?)),
                _ => None,
            },
            Literal::Number(square) => Some((side(square)?, side(square)?)),
            _ => None,
        });
        let keypoints = value("kpt_shape").and_then(|text| match Literal::read(text)? {
            Literal::List(shape) => match shape[..] {
                [Literal::Number(points @ 1..=1000), Literal::Number(numbers @ 2..=3)] => {
                    Some((points as usize, numbers as usize))
                }
                _ => None,
            },
            _ => None,
        });
        let ultralytics = value("stride").is_some() && names.is_some();
        Metadata {
            task: value("task").filter(|_| ultralytics).map(str::to_owned),
            names,
            size,
            keypoints,
            ultralytics,
            end2end: value("end2end").is_some_and(|text| text.eq_ignore_ascii_case("true")),
            // A line may be a space of its own: nothing is trimmed.
            characters: value("character").map(|text| text.split('\n').map(str::to_owned).collect()),
        }
    }
}

fn side(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|side| (1..=65_535).contains(side))
}

/// Names by number, of a dictionary or a list.
fn names(text: &str) -> Option<Vec<String>> {
    match Literal::read(text)? {
        Literal::List(items) => items.into_iter().map(Literal::text).collect(),
        Literal::Dictionary(entries) => {
            let mut names = vec![String::new(); entries.len()];
            for (key, name) in entries {
                let Literal::Number(at) = key else { return None };
                *names.get_mut(usize::try_from(at).ok()?)? = name.text()?;
            }
            Some(names)
        }
        _ => None,
    }
}

/// A Python literal of the kinds that metadata holds.
#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Number(i64),
    Text(String),
    List(Vec<Literal>),
    Dictionary(Vec<(Literal, Literal)>),
}

/// Most lists within lists.
const DEEPEST: u32 = 4;

impl Literal {
    fn read(text: &str) -> Option<Literal> {
        let mut rest = text.trim();
        let literal = Literal::next(&mut rest, DEEPEST)?;
        rest.trim().is_empty().then_some(literal)
    }

    fn text(self) -> Option<String> {
        match self {
            Literal::Text(text) => Some(text),
            Literal::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn next(rest: &mut &str, depth: u32) -> Option<Literal> {
        let depth = depth.checked_sub(1)?;
        *rest = rest.trim_start();
        let first = rest.chars().next()?;
        match first {
            '\'' | '"' => quoted(rest, first).map(Literal::Text),
            '[' | '(' => {
                *rest = &rest[1..];
                let close = if first == '[' { ']' } else { ')' };
                let mut items = Vec::new();
                while !take(rest, close) {
                    items.push(Literal::next(rest, depth)?);
                    if !take(rest, ',') && !rest.trim_start().starts_with(close) {
                        return None;
                    }
                }
                Some(Literal::List(items))
            }
            '{' => {
                *rest = &rest[1..];
                let mut entries = Vec::new();
                while !take(rest, '}') {
                    let key = Literal::next(rest, depth)?;
                    if !take(rest, ':') {
                        return None;
                    }
                    entries.push((key, Literal::next(rest, depth)?));
                    if !take(rest, ',') && !rest.trim_start().starts_with('}') {
                        return None;
                    }
                }
                Some(Literal::Dictionary(entries))
            }
            _ => {
                let digits = |byte: char| byte == '-' || byte.is_ascii_digit();
                let end = rest.find(|byte| !digits(byte)).unwrap_or(rest.len());
                let number = rest[..end].parse().ok()?;
                *rest = &rest[end..];
                Some(Literal::Number(number))
            }
        }
    }
}

/// Takes a sign where it is next.
fn take(rest: &mut &str, sign: char) -> bool {
    let trimmed = rest.trim_start();
    match trimmed.strip_prefix(sign) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

/// A text in quotes, with Python's escapes.
fn quoted(rest: &mut &str, quote: char) -> Option<String> {
    let mut text = String::new();
    let mut signs = rest.char_indices().skip(1);
    while let Some((at, sign)) = signs.next() {
        if sign == quote {
            *rest = &rest[at + quote.len_utf8()..];
            return Some(text);
        }
        if sign != '\\' {
            text.push(sign);
            continue;
        }
        let (_, escaped) = signs.next()?;
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'n' => {
                text.push('\n');
                continue;
            }
            't' => {
                text.push('\t');
                continue;
            }
            other => {
                text.push(other);
                continue;
            }
        };
        let code: String = signs.by_ref().take(digits).map(|(_, digit)| digit).collect();
        text.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Metadata {
        Metadata::read(&entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn what_ultralytics_writes_is_read() {
        let found = of(&[
            ("task", "detect"),
            ("stride", "32"),
            ("imgsz", "[640, 480]"),
            ("names", r#"{0: 'person', 1: "driver's seat", 2: 'caf\xe9 \\'}"#),
            ("end2end", "True"),
            ("kpt_shape", "[17, 3]"),
        ]);
        assert_eq!(found.keypoints, Some((17, 3)));
        assert_eq!(of(&[("kpt_shape", "[17, 4]")]).keypoints, None);
        let names = ["person", "driver's seat", "café \\"].map(String::from).to_vec();
        assert_eq!((found.names, found.size), (Some(names), Some((640, 480))));
        assert!(found.ultralytics && found.end2end && found.task.as_deref() == Some("detect"));
        let old = of(&[("stride", "32"), ("names", "['a', 'b']")]);
        assert_eq!(old.names, Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn a_readers_characters_are_not_trimmed() {
        let found = of(&[("character", "a\n\u{3000}\nb")]);
        assert_eq!(found.characters, Some(vec!["a".into(), "\u{3000}".into(), "b".into()]));
        assert!(!found.ultralytics);
    }

    #[test]
    fn rubbish_is_nothing() {
        for text in
            ["", "{", "{0}", "{0: ", "{0: 'a'", "{5: 'a'}", "{-1: 'a'}", "[[[[[1]]]]]", "'\\", "{0: 'a' 1: 'b'}"]
        {
            assert_eq!(of(&[("stride", "1"), ("names", text)]).names, None, "{text}");
            assert_eq!(of(&[("imgsz", text)]).size, None, "{text}");
        }
        assert_eq!(of(&[("imgsz", "[640, 99999999999999999999]")]).size, None);
    }
}
