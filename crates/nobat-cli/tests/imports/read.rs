//! A crate's modules as their files have them: what each defines, imports and names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Segments of a path, as written: `crate`, `self` and `super` included.
pub(crate) type Segments = Vec<String>;

/// A module; several may stand in one file, one inside the other.
#[derive(Default)]
pub(crate) struct Module {
    /// Its file, from the folder of the root.
    pub(crate) file: PathBuf,
    /// Names of items that stand in it.
    pub(crate) items: BTreeSet<String>,
    pub(crate) children: BTreeMap<String, usize>,
    pub(crate) parent: Option<usize>,
    /// What a `use` gives a name to.
    pub(crate) aliases: BTreeMap<String, Segments>,
    /// What is imported as a whole.
    pub(crate) globs: Vec<Segments>,
    /// Paths in code.
    pub(crate) paths: Vec<Segments>,
}

/// Every module of the crate whose root file this is; the root's is the first.
pub(crate) fn tree(root: &Path) -> Vec<Module> {
    let mut reader = Reader { folder: root.parent().expect("a folder").to_owned(), modules: Vec::new() };
    let module = reader.open(root, None);
    reader.read_file(root, module, root.parent().expect("a folder"));
    reader.modules
}

struct Reader {
    folder: PathBuf,
    modules: Vec<Module>,
}

impl Reader {
    fn open(&mut self, file: &Path, parent: Option<usize>) -> usize {
        let file = file.strip_prefix(&self.folder).expect("a file of the crate").to_owned();
        self.modules.push(Module { file, parent, ..Module::default() });
        self.modules.len() - 1
    }

    /// `children`: the folder of the modules that the file declares.
    fn read_file(&mut self, file: &Path, module: usize, children: &Path) {
        let text = std::fs::read_to_string(file).expect("a source file");
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.items(&tokens.into_iter().collect::<Vec<_>>(), module, file, children);
    }

    /// Reads what stands in a module.
    fn items(&mut self, tokens: &[TokenTree], module: usize, file: &Path, children: &Path) {
        let tokens = without_tests(tokens);
        let mut paths_given: Vec<String> = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            match word(&tokens, at).as_deref() {
                Some("mod") => {
                    let name = word(&tokens, at + 1).expect("a module's name");
                    let folder = children.join(&name);
                    if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                        let child = self.open(file, Some(module));
                        self.modules[module].children.insert(name, child);
                        self.items(&body.stream().into_iter().collect::<Vec<_>>(), child, file, &folder);
                    } else if paths_given.is_empty() {
                        let (plain, nested) = (children.join(format!("{name}.rs")), folder.join("mod.rs"));
                        let path = if plain.is_file() { plain } else { nested };
                        self.declared(name, &path, module, &folder);
                    } else {
                        // One file a build: the crate must stand with either.
                        for path in std::mem::take(&mut paths_given) {
                            self.declared(name.clone(), &file.with_file_name(path), module, &folder);
                        }
                    }
                    at += 3;
                    continue;
                }
                Some("fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static") => {
                    let name = ["fn", "mut"].contains(&word(&tokens, at + 1).as_deref().unwrap_or_default());
                    self.modules[module].items.extend(word(&tokens, at + 1 + usize::from(name)));
                }
                Some("macro_rules") => self.modules[module].items.extend(word(&tokens, at + 2)),
                _ => {}
            }
            if let Some(attribute) = attribute(&tokens, at) {
                paths_given.extend(given_path(&attribute));
            }
            at += 1;
        }
        self.names(&tokens, module);
    }

    fn declared(&mut self, name: String, path: &Path, module: usize, folder: &Path) {
        let child = self.open(path, Some(module));
        self.modules[module].children.insert(name, child);
        self.read_file(path, child, folder);
    }

    /// Collects imports and paths, at any depth.
    fn names(&mut self, tokens: &[TokenTree], module: usize) {
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(ident) if ident == "use" && !is(tokens, at + 1, '<') => {
                    let end = (at..tokens.len()).find(|&end| is(tokens, end, ';')).unwrap_or(tokens.len());
                    self.import(&tokens[at + 1..end], Vec::new(), module);
                    at = end;
                }
                // Modules of their own, and who may see an item.
                TokenTree::Ident(ident) if ident == "mod" => at += 2,
                TokenTree::Ident(ident) if ident == "pub" => {
                    let narrowed = tokens.get(at + 1).is_some_and(
                        |next| matches!(next, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis),
                    );
                    at += usize::from(narrowed);
                }
                TokenTree::Ident(ident) => {
                    let mut path = vec![ident.to_string()];
                    while is(tokens, at + 1, ':') && is(tokens, at + 2, ':') {
                        let Some(next) = word(tokens, at + 3) else { break };
                        path.push(next);
                        at += 3;
                    }
                    self.modules[module].paths.push(path);
                }
                // `<T as Trait>::NAME`, `::std`: what follows is no name of this module's.
                TokenTree::Punct(_) if is(tokens, at, ':') && is(tokens, at + 1, ':') => {
                    at += 1 + usize::from(word(tokens, at + 2).is_some());
                }
                TokenTree::Group(group) => {
                    self.names(&without_tests(&group.stream().into_iter().collect::<Vec<_>>()), module);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// One `use` tree under `before`.
    fn import(&mut self, tree: &[TokenTree], before: Segments, module: usize) {
        let mut path = before;
        let mut at = 0;
        while at < tree.len() {
            match &tree[at] {
                TokenTree::Ident(ident) if ident == "as" => {
                    return self.alias(word(tree, at + 1), path, module);
                }
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => {
                    return self.modules[module].globs.push(path);
                }
                TokenTree::Group(group) => {
                    let trees: Vec<_> = group.stream().into_iter().collect();
                    for tree in trees.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','))
                    {
                        if !tree.is_empty() {
                            self.import(tree, path.clone(), module);
                        }
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        self.alias(None, path, module);
    }

    fn alias(&mut self, name: Option<String>, mut path: Segments, module: usize) {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(name) = name.or_else(|| path.last().cloned()) else { return };
        // `as _` brings a trait's methods and no name.
        if name == "_" {
            self.modules[module].paths.push(path);
        } else {
            self.modules[module].aliases.insert(name, path);
        }
    }
}

fn word(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at)? {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        _ => None,
    }
}

fn is(tokens: &[TokenTree], at: usize, sign: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

/// The words between the brackets of an attribute that begins here.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<Vec<TokenTree>> {
    match tokens.get(at + 1)? {
        TokenTree::Group(group) if is(tokens, at, '#') && group.delimiter() == Delimiter::Bracket => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

/// The file in `#[path = "…"]`, also where a `cfg_attr` gives it.
fn given_path(attribute: &[TokenTree]) -> Option<String> {
    for (at, token) in attribute.iter().enumerate() {
        match token {
            TokenTree::Ident(ident) if ident == "path" && is(attribute, at + 1, '=') => {
                return Some(attribute.get(at + 2)?.to_string().trim_matches('"').to_owned());
            }
            TokenTree::Group(group) => {
                let found = given_path(&group.stream().into_iter().collect::<Vec<_>>());
                if found.is_some() {
                    return found;
                }
            }
            _ => {}
        }
    }
    None
}

/// Leaves out what is built for tests only.
fn without_tests(tokens: &[TokenTree]) -> Vec<TokenTree> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if attribute(tokens, at).is_some_and(|attribute| is_of_tests(&attribute)) {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// `cfg(test)`, `cfg(all(test, …))`.
fn is_of_tests(attribute: &[TokenTree]) -> bool {
    let [TokenTree::Ident(cfg), TokenTree::Group(condition)] = attribute else { return false };
    let condition: Vec<_> = condition.stream().into_iter().collect();
    cfg == "cfg"
        && match &condition[..] {
            [TokenTree::Ident(only)] => only == "test",
            [TokenTree::Ident(all), TokenTree::Group(parts)] if all == "all" => {
                parts.stream().into_iter().any(|part| matches!(part, TokenTree::Ident(part) if part == "test"))
            }
            _ => false,
        }
}

/// Behind the item, or the field, that the attribute at `at` belongs to.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while attribute(tokens, at).is_some() {
        at += 2;
    }
    let statement = ["use", "const", "static", "type", "let"];
    let to_semicolon = (at..tokens.len().min(at + 3))
        .any(|at| word(tokens, at).is_some_and(|word| statement.contains(&word.as_str())));
    while at < tokens.len() {
        let braces = matches!(&tokens[at], TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        at += 1;
        if is(tokens, at - 1, ';') || (!to_semicolon && (braces || is(tokens, at - 1, ','))) {
            break;
        }
    }
    at
}
