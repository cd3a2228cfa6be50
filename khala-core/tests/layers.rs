//! No circle of files is left in this crate and in khala-server: what a file stands on never stands on that file.
//!
//! The test reads every file of both libraries and draws an arrow from a file to each other file whose names it takes: by `use`, or by
//! a path that begins with `crate`, `super` or `self`. It fails with the circle printed.
//!
//! # Invariants
//! - An arrow leads to the file that declares the name. A re-export is followed to the file where the name comes from.
//! - A file that only declares and re-exports its children (`mod.rs`, `lib.rs`) stands on none of them. A name that it re-exports
//!   and uses in code of its own is an import like any other.
//! - Code under `#[cfg(test)]` and documentation are left out: neither is built with the crate.
//! - Methods are not followed. A type's methods may stand in several files, each of which takes the type's name from the file
//!   that declares it; so that file takes no name from them.

#![expect(clippy::unwrap_used, reason = "a test of the sources: what cannot be read fails it")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

/// A module by its path from the crate's root: `["session", "channel"]`.
type Module = Vec<String>;

/// One `use` of one name, or a path in code.
#[derive(Debug)]
struct Import {
    path: Vec<String>,
    /// What the name is called here.
    alias: String,
    is_public: bool,
}

#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    /// Children whose file is only built for tests.
    tests: BTreeSet<String>,
    imports: Vec<Import>,
    /// The words of its code outside of `use`.
    words: BTreeSet<String>,
}

/// The libraries, each with its parts that no row of the picture has: the laws, which are for implementers of a store, and
/// programs. Those parts may use everything.
const CRATES: [(&str, &[&str]); 2] = [("khala-core", &["conformance"]), ("khala-server", &["bin"])];

#[test]
fn no_file_stands_on_a_file_that_stands_on_it() {
    for (name, _) in CRATES {
        let files = sources(name);
        assert!(files.len() > 30, "the sources were not found");
        let circles = circles(&arrows(&files));
        let printed: Vec<_> = circles.iter().map(|circle| show(circle, &files)).collect();
        assert!(printed.is_empty(), "{name} has {} circles of files:\n{}", printed.len(), printed.join("\n"));
    }
}

/// What is beside this crate.
fn beside(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn sources(name: &str) -> BTreeMap<Module, File> {
    read_crate(&beside(name).join("src"))
}

/// The rows of the library's picture in ARCHITECTURE.md, from the top down: names of files or folders, up to two spaces and the
/// description.
fn rows(name: &str) -> Vec<Vec<Module>> {
    let text = fs::read_to_string(beside("ARCHITECTURE.md")).unwrap();
    let (_, from_picture) = text.split_once(&format!("Within `{name}`, what stands on what")).unwrap();
    let picture = from_picture.split("```").nth(1).and_then(|block| block.strip_prefix("text")).unwrap();
    let names = |line: &str| -> Vec<Module> {
        let (names, _) = line.split_at(line.char_indices().nth(47).map_or(line.len(), |(at, _)| at));
        names.split_whitespace().map(|name| name.split('/').map(String::from).collect()).collect()
    };
    picture.lines().map(names).filter(|row| !row.is_empty()).collect()
}

#[test]
fn every_arrow_of_the_pictures_in_the_documentation_leads_down() {
    for (name, without) in CRATES {
        let wrong = faults_of_picture(name, without);
        assert!(wrong.is_empty(), "the picture of {name} in ARCHITECTURE.md is wrong:\n{}", wrong.join("\n"));
    }
}

fn faults_of_picture(name: &str, without: &[&str]) -> Vec<String> {
    let mut files = sources(name);
    files.retain(|module, _| module.first().is_some_and(|first| !without.contains(&&**first)));
    let rows = rows(name);
    let row_of = |module: &Module| {
        let named =
            rows.iter().enumerate().flat_map(|(row, names)| names.iter().map(move |name| (name, row)));
        named
            .filter(|(name, _)| module.starts_with(name))
            .max_by_key(|(name, _)| name.len())
            .map(|(_, row)| row)
    };
    let mut wrong = Vec::new();
    for name in rows.iter().flatten() {
        if !files.keys().any(|module| module.starts_with(name)) {
            wrong.push(format!("there is no {}", name.join("/")));
        }
    }
    for (module, targets) in arrows(&files) {
        let Some(row) = row_of(&module) else {
            wrong.push(format!("{} is in no row", module.join("/")));
            continue;
        };
        for target in targets.iter().filter(|target| row_of(target).is_some_and(|below| below < row)) {
            wrong.push(format!("{} stands on {}", module.join("/"), target.join("/")));
        }
    }
    wrong
}

#[test]
fn a_circle_is_found_through_a_re_export_and_not_through_a_parent_that_only_declares() {
    let crate_of = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(module, text)| {
            let module: Module =
                module.split("::").filter(|name| !name.is_empty()).map(String::from).collect();
            (module, parse(text))
        });
        circles(&arrows(&files.collect())).len()
    };
    let root = ("", "mod a;\nmod b;\npub use self::{a::A, b::B};");
    assert_eq!(crate_of(&[root, ("a", "use crate::b::B;"), ("b", "struct B;")]), 0);
    assert_eq!(
        crate_of(&[root, ("a", "use crate::B; struct A;"), ("b", "fn b(a: crate::A) {} struct B;")]),
        1
    );
    let tests = "struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }";
    assert_eq!(crate_of(&[root, ("a", "use crate::b::B;"), ("b", tests)]), 0);
    // A parent with code that uses what it re-exports, or imports from a child that imports from it.
    let a = ("a", "use super::Own; struct A;");
    assert_eq!(crate_of(&[("", "mod a;\npub use self::a::A;\nstruct Own;"), a]), 0);
    assert_eq!(crate_of(&[("", "mod a;\npub use self::a::A;\nstruct Own(A);"), a]), 1);
    assert_eq!(crate_of(&[("", "mod a;\nuse self::a::A;\nstruct Own;"), a]), 1);
}

fn read_crate(root: &Path) -> BTreeMap<Module, File> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mut module = module.clone();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                module.push(name);
                folders.push((path, module));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if name != "mod" && name != "lib" {
                    module.push(name);
                }
                let mut file = parse(&fs::read_to_string(&path).unwrap());
                file.path = path.strip_prefix(root).unwrap().to_owned();
                files.insert(module, file);
            }
        }
    }
    let is_for_tests = |module: &Module, files: &BTreeMap<Module, File>| {
        (0..module.len()).any(|n| files.get(&module[..n]).is_some_and(|file| file.tests.contains(&module[n])))
    };
    let tests: Vec<_> = files.keys().filter(|module| is_for_tests(module, &files)).cloned().collect();
    files.retain(|module, _| !tests.contains(module));
    files
}

/// Which files each file takes names from.
fn arrows(files: &BTreeMap<Module, File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let targets = |(module, file): (&Module, &File)| {
        let is_import = |import: &&Import| !import.is_public || file.words.contains(&import.alias);
        let targets = file.imports.iter().filter(is_import);
        let mut targets: BTreeSet<_> =
            targets.filter_map(|import| resolve(files, module, &import.path, 0)).collect();
        targets.remove(module);
        (module.clone(), targets)
    };
    files.iter().map(targets).collect()
}

/// The module that declares what `path` names, if that is in this crate.
fn resolve(files: &BTreeMap<Module, File>, from: &Module, path: &[String], depth: usize) -> Option<Module> {
    assert!(depth < 20, "a re-export leads nowhere: {path:?}");
    let mut segments = path.iter().peekable();
    let mut module = from.clone();
    match segments.next()?.as_str() {
        "crate" => module.clear(),
        "self" => {}
        "super" => _ = module.pop(),
        // A child by its name, or another crate.
        child if files.contains_key(&[from.as_slice(), &[child.to_owned()]].concat()) => {
            module.push(child.to_owned());
        }
        _ => return None,
    }
    while segments.next_if(|segment| *segment == "super").is_some() {
        module.pop();
    }
    for segment in segments {
        let child = [module.as_slice(), std::slice::from_ref(segment)].concat();
        if files.contains_key(&child) {
            module = child;
            continue;
        }
        let imports = &files.get(&module)?.imports;
        // A child sees what its parent imports from a sibling, too.
        let is_seen = |import: &&Import| import.is_public || import.path[0] != "crate";
        let exported = imports.iter().filter(is_seen).find(|import| import.alias == *segment);
        return match exported {
            Some(import) => resolve(files, &module, &import.path, depth + 1),
            None => Some(module),
        };
    }
    Some(module)
}

/// One shortest circle out of each knot of files that stand on each other.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let mut found: Vec<Vec<Module>> = Vec::new();
    for start in arrows.keys() {
        let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(at) = queue.pop_front() {
            for next in arrows.get(at).into_iter().flatten() {
                if next == start {
                    let mut circle = vec![at.clone()];
                    while let Some(before) = came_from.get(circle.last().unwrap()) {
                        circle.push((*before).clone());
                    }
                    circle.reverse();
                    let is_same = |other: &Vec<Module>| {
                        other.len() == circle.len() && circle.iter().all(|module| other.contains(module))
                    };
                    if !found.iter().any(is_same) {
                        found.push(circle);
                    }
                    break 'search;
                }
                if !came_from.contains_key(next) {
                    came_from.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
    }
    found
}

fn show(circle: &[Module], files: &BTreeMap<Module, File>) -> String {
    let name = |module: &Module| files[module].path.display().to_string();
    circle.iter().chain(circle.first()).map(name).collect::<Vec<_>>().join(" -> ")
}

/// Reads what a file takes from others.
fn parse(text: &str) -> File {
    let tokens = without_tests(&tokens(text));
    let mut file = File::default();
    let mut at = 0;
    let mut is_public = false;
    while at < tokens.0.len() {
        let token = tokens.0[at].as_str();
        let starts_path = at == 0 || tokens.0[at - 1] != "::";
        match token {
            // Not the `use<>` of a type.
            "use" if tokens.0[at + 1] != "<" => {
                let end = at + tokens.0[at..].iter().position(|token| token == ";").unwrap();
                let mut tree = tokens.0[at + 1..end].iter().map(String::as_str).peekable();
                use_tree(&mut tree, &[], is_public, &mut file.imports);
                (at, is_public) = (end, false);
            }
            "pub" => {
                is_public = true;
                if tokens.0.get(at + 1).is_some_and(|token| token == "(") {
                    at += tokens.0[at..].iter().position(|token| token == ")").unwrap();
                }
            }
            "crate" | "super" | "self"
                if starts_path && tokens.0.get(at + 1).is_some_and(|next| next == "::") =>
            {
                let mut path = vec![token.to_owned()];
                while tokens.0.get(at + 1).is_some_and(|token| token == "::")
                    && tokens.0.get(at + 2).is_some_and(|token| is_word(token))
                {
                    at += 2;
                    path.push(tokens.0[at].clone());
                }
                let alias = path.last().unwrap().clone();
                file.words.insert(alias.clone());
                file.imports.push(Import { path, alias: format!("{alias} in a path"), is_public: false });
            }
            word => {
                is_public = false;
                if is_word(word) {
                    file.words.insert(word.to_owned());
                }
            }
        }
        at += 1;
    }
    file.tests = tokens.1;
    file
}

fn use_tree<'a>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    before: &[String],
    is_public: bool,
    imports: &mut Vec<Import>,
) {
    let mut path = before.to_vec();
    loop {
        match tokens.next() {
            Some("::") => {}
            Some("{") => {
                while tokens.peek().is_some() && tokens.next_if_eq(&"}").is_none() {
                    use_tree(tokens, &path, is_public, imports);
                    tokens.next_if_eq(&",");
                }
                return;
            }
            Some("self") if !before.is_empty() && path.len() == before.len() => {}
            Some(word) => path.push(word.to_owned()),
            None => break,
        }
        if matches!(tokens.peek(), None | Some(&("," | "}" | "as"))) {
            break;
        }
    }
    let mut alias = path.last().cloned().unwrap_or_default();
    if tokens.next_if_eq(&"as").is_some() {
        alias = tokens.next().unwrap().to_owned();
    }
    imports.push(Import { path, alias, is_public });
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Leaves out what is only built for tests; gives the children that are, too.
fn without_tests(tokens: &[String]) -> (Vec<String>, BTreeSet<String>) {
    let (mut kept, mut files) = (Vec::new(), BTreeSet::new());
    let is_test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().take(is_test.len()).eq(is_test.iter()) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // Up to the end of the item: a semicolon, or the brace that closes the first one.
        let mut depth = 0;
        at += is_test.len();
        loop {
            match tokens[at].as_str() {
                "mod" if depth == 0 && tokens[at + 2] == ";" => _ = files.insert(tokens[at + 1].clone()),
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && matches!(tokens[at].as_str(), ";" | "}");
            at += 1;
            if ends {
                break;
            }
        }
    }
    (kept, files)
}

/// Words and signs, without comments and texts.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(end) = raw_text(rest) {
            end
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            // A character, or a lifetime.
            let mut chars = rest[1..].char_indices();
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), _) => rest[3..].find('\'').map_or(rest.len(), |end| end + 4),
                (_, Some((end, '\''))) => end + 2,
                _ => 1,
            }
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    tokens
}

/// The length of a raw text that `text` begins with.
fn raw_text(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    inner[hashes..].starts_with('"').then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inner.len() + hashes + 1;
    Some(start + text[start..].find(&end)? + end.len())
}
