//! Finds files of a crate that use each other in a circle, because such files can only be read, changed
//! and tested together. A module and its own submodules are exempt, because they are one unit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::support::root;

/// A `use` of a file.
struct Import {
    path: Vec<String>,
    /// The name in this file; `*` for all.
    name: String,
    /// How many inline modules are around it.
    depth: usize,
}

#[derive(Default)]
struct File {
    path: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    imports: Vec<Import>,
    /// Paths in the code that begin with `crate`, `self` or `super`, with the inline modules around.
    paths: Vec<(Vec<String>, usize)>,
}

/// What the tokens of a file declare and use.
#[derive(Default)]
struct Scan {
    modules: Vec<String>,
    imports: Vec<Import>,
    paths: Vec<(Vec<String>, usize)>,
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token? {
        TokenTree::Ident(ident) => Some(ident.to_string().trim_start_matches("r#").to_owned()),
        _ => None,
    }
}

fn is_punct(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn is_double_colon(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token? {
        TokenTree::Group(group) if group.delimiter() == delimiter => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

impl Scan {
    fn of(text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap();
        let mut scan = Self::default();
        scan.tokens(&tokens.into_iter().collect::<Vec<_>>(), 0);
        scan
    }

    fn tokens(&mut self, tokens: &[TokenTree], depth: usize) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if is_punct(Some(token), '#') {
                let inner = usize::from(is_punct(tokens.get(at + 1), '!'));
                if let Some(attribute) = group(tokens.get(at + 1 + inner), Delimiter::Bracket) {
                    at += 2 + inner;
                    let text: TokenStream = attribute.into_iter().collect();
                    let text = text.to_string().replace(' ', "");
                    assert!(!text.starts_with("path="), "a module has its usual file");
                    // What only tests use may use anything.
                    if text == "cfg(test)" {
                        at = after_item(tokens, at);
                    }
                    continue;
                }
            }
            let word = ident(Some(token));
            match word.as_deref() {
                Some("mod") => {
                    if let Some(name) = ident(tokens.get(at + 1)) {
                        if let Some(body) = group(tokens.get(at + 2), Delimiter::Brace) {
                            self.tokens(&body, depth + 1);
                        } else {
                            self.modules.push(name);
                        }
                        at += 2;
                    }
                }
                // And not `use<'_>` in a type.
                Some("use") if !is_punct(tokens.get(at + 1), '<') => {
                    let tail = tokens.get(at + 1..).unwrap_or_default();
                    let end = tail.iter().position(|it| is_punct(Some(it), ';'));
                    let end = end.unwrap_or(tail.len());
                    self.import(&tail[..end], &[], depth);
                    at += end;
                }
                Some("crate" | "super" | "self")
                    if is_double_colon(tokens, at + 1)
                        && !(at > 0 && ident(tokens.get(at - 1)).as_deref() == Some("in")) =>
                {
                    let mut path = vec![word.unwrap_or_default()];
                    while is_double_colon(tokens, at + 1)
                        && let Some(segment) = ident(tokens.get(at + 3))
                    {
                        path.push(segment);
                        at += 3;
                    }
                    self.paths.push((path, depth));
                }
                _ => {
                    if let TokenTree::Group(group) = token {
                        let inside: Vec<_> = group.stream().into_iter().collect();
                        self.tokens(&inside, depth);
                    }
                }
            }
            at += 1;
        }
    }

    /// Reads what stands between `use` and `;`, or in the braces of one.
    fn import(&mut self, tokens: &[TokenTree], prefix: &[String], depth: usize) {
        for tree in tokens.split(|it| is_punct(Some(it), ',')) {
            let mut path = prefix.to_vec();
            let mut name = None;
            let mut at = 0;
            while let Some(token) = tree.get(at) {
                if let Some(inside) = group(Some(token), Delimiter::Brace) {
                    self.import(&inside, &path, depth);
                    path.clear();
                } else if is_punct(Some(token), '*') {
                    name = Some("*".to_owned());
                } else if let Some(word) = ident(Some(token)) {
                    if word == "as" {
                        name = ident(tree.get(at + 1));
                        at += 1;
                    } else if word != "self" || path.is_empty() {
                        path.push(word);
                    }
                }
                at += 1;
            }
            if let Some(last) = path.last().cloned() {
                let name = name.unwrap_or(last);
                self.imports.push(Import { path, name, depth });
            }
        }
    }
}

/// Where the item ends that begins here, its further attributes with it.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        at += 1;
        if is_punct(Some(token), ';') || group(Some(token), Delimiter::Brace).is_some() {
            break;
        }
    }
    at
}

/// The files of a crate, the root first.
struct Crate(Vec<File>);

impl Crate {
    fn read(root: &Path) -> Self {
        let mut this = Self(Vec::new());
        this.file(root, root.parent().unwrap(), None);
        this
    }

    /// Reads a file whose submodules are in a folder, and these.
    fn file(&mut self, path: &Path, folder: &Path, parent: Option<usize>) -> usize {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let scan = Scan::of(&text);
        let number = self.0.len();
        self.0.push(File {
            path: path.to_owned(),
            parent,
            imports: scan.imports,
            paths: scan.paths,
            ..File::default()
        });
        for name in scan.modules {
            let below = folder.join(&name);
            let flat = folder.join(format!("{name}.rs"));
            let path = if flat.exists() {
                flat
            } else {
                below.join("mod.rs")
            };
            let child = self.file(&path, &below, Some(number));
            self.0[number].children.insert(name, child);
        }
        number
    }

    /// The file in which a name is declared, and the name; `None` for another crate's.
    fn resolve(
        &self,
        from: usize,
        path: &[String],
        mut depth: usize,
        hops: usize,
    ) -> Option<(usize, String)> {
        let mut file = from;
        let mut rest = path;
        let mut is_ours = false;
        while let Some((first, more)) = rest.split_first() {
            match first.as_str() {
                "crate" => file = 0,
                "self" => {}
                "super" if depth > 0 => depth -= 1,
                "super" => file = self.0[file].parent?,
                _ => break,
            }
            is_ours = true;
            rest = more;
        }
        while let Some((first, more)) = rest.split_first() {
            let here = &self.0[file];
            if let Some(child) = here.children.get(first) {
                file = *child;
            } else if hops > 0
                && let Some(import) = here.imports.iter().find(|it| it.name == *first)
            {
                let path: Vec<_> = import.path.iter().chain(more).cloned().collect();
                return self.resolve(file, &path, import.depth, hops - 1);
            } else {
                return is_ours.then(|| (file, first.clone()));
            }
            is_ours = true;
            rest = more;
        }
        is_ours.then(|| (file, path.last().cloned().unwrap_or_default()))
    }

    fn is_inside(&self, file: usize, outer: usize) -> bool {
        let mut up = Some(file);
        while let Some(file) = up {
            if file == outer {
                return true;
            }
            up = self.0[file].parent;
        }
        false
    }

    /// For each file the files that it uses, and by which names.
    fn edges(&self) -> Vec<BTreeMap<usize, BTreeSet<String>>> {
        let edges = self.0.iter().enumerate().map(|(number, file)| {
            let mut edges: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
            let imports = file.imports.iter().map(|it| (&it.path, it.depth));
            let paths = file.paths.iter().map(|(path, depth)| (path, *depth));
            for (path, depth) in imports.chain(paths) {
                if let Some((other, name)) = self.resolve(number, path, depth, 16)
                    && !self.is_inside(number, other)
                    && !self.is_inside(other, number)
                {
                    edges.entry(other).or_default().insert(name);
                }
            }
            edges
        });
        edges.collect()
    }

    /// The circles: files that reach each other, and how.
    fn circles(&self) -> Vec<Circle> {
        let edges = self.edges();
        let reach = |from: usize| {
            let mut seen = BTreeSet::new();
            let mut next = vec![from];
            while let Some(file) = next.pop() {
                let others = edges[file].keys();
                next.extend(others.filter(|it| seen.insert(**it)));
            }
            seen
        };
        let reached: Vec<_> = (0..edges.len()).map(reach).collect();
        let folder = self.0[0].path.parent().unwrap();
        let short = |file: usize| {
            let path = self.0[file].path.strip_prefix(folder).unwrap();
            path.display().to_string()
        };
        let mut circles = Vec::new();
        for (file, others) in reached.iter().enumerate() {
            let members: Vec<_> = others
                .iter()
                .filter(|it| reached[**it].contains(&file))
                .collect();
            if members.first().is_none_or(|first| **first != file) {
                continue;
            }
            let mut ties = String::new();
            for from in &members {
                for (to, names) in edges[**from].iter().filter(|(to, _)| members.contains(to)) {
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    let (from, to) = (short(**from), short(*to));
                    writeln!(ties, "  {from} uses {to}: {}", names.join(", ")).unwrap();
                }
            }
            let files = members.iter().map(|it| short(**it)).collect();
            circles.push(Circle { files, ties });
        }
        circles
    }
}

#[derive(Debug)]
struct Circle {
    files: BTreeSet<String>,
    ties: String,
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_circle() {
    let mut roots = vec![
        ("cli".to_owned(), root().join("crates/cli/main.rs")),
        ("tests".to_owned(), root().join("tests/tests.rs")),
    ];
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let root = folder.path().join("src/lib.rs");
        if root.exists() {
            roots.push((name, root));
        } else {
            assert_eq!(name, "cli", "where is its root?");
        }
    }
    let mut wrong = String::new();
    for (name, root) in roots {
        for circle in Crate::read(&root).circles() {
            writeln!(wrong, "a circle in {name}:\n{}", circle.ties).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_circle_is_named_with_what_ties_it_and_one_that_is_none_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "lib.rs",
        "mod a; mod b; mod c; mod d; mod e; pub use d::deep::{Deep as Public};",
    );
    // A circle through a macro, a name of the root and a file of a folder.
    write("a.rs", "fn f() { println!(\"{}\", crate::b::number()); }");
    write(
        "b.rs",
        "use std::fmt; use crate::{Public, c as other}; mod x { use super::super::c; }",
    );
    write(
        "d/mod.rs",
        "mod deep; pub(crate) use super::c::C; use deep::Deep;",
    );
    write(
        "d/deep.rs",
        "use super::C; use crate::a::{self, f}; pub struct Deep;",
    );
    // Uses in tests, in documentation and of a parent do not count.
    write(
        "c.rs",
        "//! See [`crate::a::f`].\n#[cfg(test)]\nmod tests { use crate::a::f; }",
    );
    write(
        "e.rs",
        "use crate::a::f; pub(in crate::c) fn g() -> impl Sized + use<> {}",
    );
    let circles = Crate::read(&folder.path().join("lib.rs")).circles();
    let [Circle { files, ties }] = circles.as_slice() else {
        panic!("{circles:?}");
    };
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    assert_eq!(files, ["a.rs", "b.rs", "d/deep.rs"]);
    let expected =
        "  a.rs uses b.rs: number\n  b.rs uses d/deep.rs: Deep\n  d/deep.rs uses a.rs: a, f\n";
    assert_eq!(*ties, expected);
}
