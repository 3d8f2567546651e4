//! Protobuf's text form, as far as Triton's `config.pbtxt` uses it: fields,
//! blocks, lists, strings, numbers and `#` comments.

/// One field; a list becomes several of the same key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) value: Value,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Block(Vec<Field>),
}

impl Field {
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Block(_) => None,
        }
    }
}

/// The first block of a key.
pub(super) fn block<'a>(fields: &'a [Field], key: &str) -> Option<&'a [Field]> {
    fields.iter().find_map(|field| match &field.value {
        Value::Block(inner) if field.key == key => Some(&inner[..]),
        _ => None,
    })
}

/// The first scalar of a key.
pub(super) fn text<'a>(fields: &'a [Field], key: &str) -> Option<&'a str> {
    fields.iter().find(|field| field.key == key).and_then(Field::as_text)
}

/// The first scalar of a key as a whole number.
pub(super) fn number(fields: &[Field], key: &str) -> Result<Option<u64>, String> {
    let Some(text) = text(fields, key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{key} is `{text}`; a whole number is needed"))
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, String> {
    let tokens = tokens(text)?;
    let mut at = 0;
    let fields = fields(&tokens, &mut at, 0)?;
    match tokens.get(at) {
        None => Ok(fields),
        Some(extra) => Err(format!("unexpected `{extra}`")),
    }
}

const MAX_DEPTH: u32 = 32;

fn fields(tokens: &[String], at: &mut usize, depth: u32) -> Result<Vec<Field>, String> {
    if depth > MAX_DEPTH {
        return Err("blocks are nested too deep".into());
    }
    let mut found = Vec::new();
    while let Some(key) = tokens.get(*at).filter(|token| *token != "}") {
        *at += 1;
        if tokens.get(*at).is_some_and(|token| token == ":") {
            *at += 1;
        }
        values(tokens, at, key, depth, &mut found)?;
        if tokens.get(*at).is_some_and(|token| token == "," || token == ";") {
            *at += 1;
        }
    }
    Ok(found)
}

fn values(tokens: &[String], at: &mut usize, key: &str, depth: u32, found: &mut Vec<Field>) -> Result<(), String> {
    let next = tokens.get(*at).ok_or_else(|| format!("`{key}` has no value"))?;
    *at += 1;
    match next.as_str() {
        "{" => {
            let inner = fields(tokens, at, depth + 1)?;
            match tokens.get(*at) {
                Some(close) if close == "}" => *at += 1,
                _ => return Err(format!("the block of `{key}` is not closed")),
            }
            found.push(Field { key: key.to_owned(), value: Value::Block(inner) });
        }
        "[" => loop {
            match tokens.get(*at).map(String::as_str) {
                None => return Err(format!("the list of `{key}` is not closed")),
                Some("]") => {
                    *at += 1;
                    break;
                }
                Some(",") => *at += 1,
                Some("[") => return Err(format!("the list of `{key}` holds a list")),
                Some(_) => values(tokens, at, key, depth, found)?,
            }
        },
        "}" | "]" | ":" | "," => return Err(format!("`{key}` has `{next}` for a value")),
        scalar => found.push(Field { key: key.to_owned(), value: Value::Text(scalar.to_owned()) }),
    }
    Ok(())
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&next) = rest.peek() {
        match next {
            '#' => while rest.next().is_some_and(|c| c != '\n') {},
            '{' | '}' | '[' | ']' | ':' | ',' | ';' => {
                tokens.push(next.to_string());
                rest.next();
            }
            '"' | '\'' => {
                rest.next();
                let mut quoted = String::new();
                loop {
                    match rest.next() {
                        None => return Err("a string is not closed".into()),
                        Some('\\') => quoted.extend(rest.next()),
                        Some(c) if c == next => break,
                        Some(c) => quoted.push(c),
                    }
                }
                tokens.push(quoted);
            }
            c if c.is_whitespace() => drop(rest.next()),
            _ => {
                let mut word = String::new();
                while let Some(&c) = rest.peek() {
                    if c.is_whitespace() || "{}[]:,;#\"'".contains(c) {
                        break;
                    }
                    word.push(c);
                    rest.next();
                }
                tokens.push(word);
            }
        }
    }
    Ok(tokens)
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
