//! Protobuf's text form, as far as Triton's `config.pbtxt` uses it: fields,
//! blocks, lists, strings, numbers and `#` comments.

use std::iter::Peekable;

const MAX_DEPTH: u32 = 32;

/// The fields of a block; a list is several fields of one key.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, Value)>);

#[derive(Debug)]
enum Value {
    Text(String),
    Block(Fields),
}

impl Fields {
    /// The first block of a key.
    pub(super) fn block(&self, key: &str) -> Option<&Fields> {
        self.blocks(key).next()
    }

    /// The blocks of a key.
    pub(super) fn blocks(&self, key: &str) -> impl Iterator<Item = &Fields> {
        self.0.iter().filter_map(move |(own, value)| match value {
            Value::Block(inner) if own == key => Some(inner),
            _ => None,
        })
    }

    /// The scalars of a key.
    pub(super) fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |(own, value)| match value {
            Value::Text(text) if own == key => Some(text.as_str()),
            _ => None,
        })
    }

    /// The first scalar of a key as a whole number.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.texts(key).next() else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{key} is `{text}`; a whole number is needed"))
    }
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Fields, String> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let fields = fields(&mut tokens, 0)?;
    tokens.next().map_or(Ok(fields), |extra| Err(format!("unexpected `{extra}`")))
}

type Tokens = Peekable<std::vec::IntoIter<String>>;

fn fields(tokens: &mut Tokens, depth: u32) -> Result<Fields, String> {
    if depth > MAX_DEPTH {
        return Err("blocks are nested too deep".into());
    }
    let mut found = Fields::default();
    while let Some(key) = tokens.next_if(|token| token != "}") {
        tokens.next_if_eq(":");
        values(tokens, &key, depth, &mut found)?;
        tokens.next_if(|token| token == "," || token == ";");
    }
    Ok(found)
}

fn values(tokens: &mut Tokens, key: &str, depth: u32, found: &mut Fields) -> Result<(), String> {
    let next = tokens.next().ok_or_else(|| format!("`{key}` has no value"))?;
    match next.as_str() {
        "{" => {
            let inner = fields(tokens, depth + 1)?;
            tokens.next_if_eq("}").ok_or_else(|| format!("the block of `{key}` is not closed"))?;
            found.0.push((key.to_owned(), Value::Block(inner)));
        }
        "[" => {
            while tokens.next_if_eq("]").is_none() {
                match tokens.peek().map(String::as_str) {
                    None => return Err(format!("the list of `{key}` is not closed")),
                    Some(",") => drop(tokens.next()),
                    Some("[") => return Err(format!("the list of `{key}` holds a list")),
                    Some(_) => values(tokens, key, depth, found)?,
                }
            }
        }
        "}" | "]" | ":" | "," => return Err(format!("`{key}` has `{next}` for a value")),
        _ => found.0.push((key.to_owned(), Value::Text(next))),
    }
    Ok(())
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(next) = rest.chars().next() {
        let ends = |c: char| c.is_whitespace() || "{}[]:,;#\"'".contains(c);
        let length = match next {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => {
                let (quoted, length) = quoted(rest, next)?;
                tokens.push(quoted);
                length
            }
            _ => {
                let length = if ends(next) { 1 } else { rest.find(ends).unwrap_or(rest.len()) };
                tokens.push(rest[..length].to_owned());
                length
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// The string that `text` begins with, and how many bytes it takes there.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut quoted = String::new();
    let mut rest = text.char_indices().skip(1);
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => quoted.extend(rest.next().map(|(_, c)| c)),
            _ if c == quote => return Ok((quoted, at + 1)),
            _ => quoted.push(c),
        }
    }
    Err("a string is not closed".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broken_text_is_refused_with_what_is_wrong() {
        for (broken, says) in [
            ("a {", "not closed"),
            ("a: [1", "not closed"),
            ("a: \"x", "not closed"),
            ("a: }", "for a value"),
            ("}", "unexpected"),
        ] {
            let error = parse(broken).expect_err(broken);
            assert!(error.contains(says), "{broken}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-c:{}\\[\\],\"#\\\\ \n0-9]{0,80}") {
            let _ = parse(&text);
        }
    }
}
