//! What documents cite is there: files, binaries, examples, tests; and everything that is published says what it is.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, by git; none where there is no git.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let Some(output) = git.output().ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: git does not list the files");
        return Vec::new();
    };
    let all = String::from_utf8(output.stdout).expect("paths are text");
    all.lines().filter(|path| root().join(path).exists()).map(str::to_owned).collect()
}

/// The documents among them, but not the changelog, which speaks of what was.
fn documents(files: &[String]) -> impl Iterator<Item = &String> {
    files.iter().filter(|path| path.ends_with(".md") && *path != "CHANGELOG.md")
}

/// What is in backticks, and where links lead.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        let code = line.split('`').skip(1).step_by(2);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        code.chain(links)
    })
}

fn is_path(text: &str) -> bool {
    let known = [".rs", ".md", ".toml", ".txt", ".svg"].iter().any(|end| text.ends_with(end));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    known && text.chars().all(plain) && !text.contains("://")
}

#[test]
fn every_file_that_a_document_cites_exists() {
    let files = files();
    let mut missing = Vec::new();
    for document in documents(&files) {
        let text = read(document);
        for path in cited(&text).filter(|path| is_path(path)) {
            // A document may leave out the folders that its reader knows. VERSION means any.
            let path = path.trim_start_matches("../");
            let is_it = |file: &String| {
                file.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
            };
            if !path.contains("VERSION") && !files.iter().any(is_it) {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_program_that_a_document_runs_exists() {
    let kinds = [
        ("--bin ", &["fuzz/src/bin", "ledger-redb/src/bin", "bench/src/bin"][..]),
        (
            "--example ",
            &[
                "examples/examples",
                "examples/bank/examples",
                "ledger-redb/examples",
                "ledger-postgres/examples",
                "registry-etcd/examples",
            ],
        ),
        (
            "--test ",
            &[
                "core/tests",
                "driver/tests",
                "fuzz/tests",
                "ledger-redb/tests",
                "ledger-postgres/tests",
                "transport-tcp/tests",
                "examples/tests",
                "transport-unix/tests",
                "transport-pipe/tests",
                "examples/primary-backup/tests",
                "examples/viewservice/tests",
                "examples/jobs/tests",
                "recorder/tests",
            ],
        ),
    ];
    let (files, mut missing) = (files(), Vec::new());
    for document in documents(&files) {
        let text = read(document);
        for (flag, folders) in kinds {
            for name in text.split(flag).skip(1) {
                let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c));
                let name = &name[..end.unwrap_or(name.len())];
                let exists = |folder: &&str| {
                    let base = root().join(folder);
                    base.join(format!("{name}.rs")).exists() || base.join(name).is_dir()
                };
                if !name.is_empty() && !folders.iter().any(exists) {
                    missing.push(format!("{document}: {flag}{name}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_published_crate_says_what_it_is() {
    for folder in [
        "cli",
        "core",
        "driver",
        "ledger-postgres",
        "ledger-redb",
        "macros",
        "observe",
        "oncewire",
        "recorder",
        "registry-etcd",
        "schema",
        "sim",
        "transport-pipe",
        "transport-tcp",
        "transport-tls",
        "transport-unix",
    ] {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        for field in
            ["description", "keywords", "categories", "license", "repository", "rust-version"]
        {
            let is_there = manifest.lines().any(|line| line.starts_with(field));
            assert!(is_there, "{folder}/Cargo.toml has no {field}");
        }
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(root().join(folder).join(file).exists(), "{folder} has no {file}");
        }
    }
}

/// A test's output is libtest's, a build script speaks to cargo, and what simulators find wrong is said in a test.
#[test]
fn c358_no_program_prints_by_a_macro_that_panics_when_its_reader_leaves() {
    let is_program = |path: &&String| {
        let elsewhere = ["tests/", "core/freestanding/", "sim/src/run.rs", "examples/output/"];
        path.ends_with(".rs")
            && !path.ends_with("build.rs")
            && !elsewhere.iter().any(|part| path.contains(part))
    };
    let panics = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let call = |at: usize| {
            !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && !code[..at].ends_with("::")
        };
        ["println!", "eprintln!", "print!", "eprint!"]
            .iter()
            .any(|print| code.match_indices(print).any(|(at, _)| call(at)))
    };
    let mut found = Vec::new();
    for path in files().iter().filter(is_program) {
        for (at, line) in read(path).lines().enumerate().filter(|(_, line)| panics(line)) {
            found.push(format!("{path}:{}: {}", at + 1, line.trim()));
        }
    }
    assert!(found.is_empty(), "use `output::show!` or `output::note!`: {found:#?}");
}

#[test]
fn the_book_leads_to_every_page() {
    let files = files();
    let book = read("docs/README.md");
    let links: Vec<PathBuf> = book
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .map(|link| root().join("docs").join(link).canonicalize().unwrap_or_default())
        .collect();
    for document in documents(&files).filter(|path| *path != "docs/README.md") {
        let path = root().join(document).canonicalize().expect("it exists");
        assert!(links.contains(&path), "docs/README.md does not lead to {document}");
    }
    if !files.is_empty() {
        assert!(read("README.md").contains("](docs/README.md)"), "README.md leads to the book");
    }
}

/// Of a page with blocks of Rust, a crate's documentation or doctests are made; no block is left out of that.
#[test]
fn every_block_of_rust_in_a_document_is_compiled() {
    let files = files();
    let sources: Vec<&String> = files.iter().filter(|path| path.ends_with(".rs")).collect();
    let included: Vec<PathBuf> = sources
        .iter()
        .flat_map(|source| {
            let folder = root().join(source).parent().expect("a file").to_owned();
            let text = read(source);
            let paths = text.split("include_str!(\"").skip(1);
            let paths: Vec<_> = paths
                .filter_map(|rest| folder.join(rest.split('"').next()?).canonicalize().ok())
                .collect();
            paths
        })
        .collect();
    for document in documents(&files) {
        let text = read(document);
        let blocks = || text.lines().filter(|line| line.starts_with("```rust"));
        let path = root().join(document).canonicalize().expect("it exists");
        assert!(blocks().count() == 0 || included.contains(&path), "{document} is not compiled");
        let ignored = blocks().find(|line| line.contains("ignore"));
        assert_eq!(ignored, None, "{document} has a block that is not compiled");
    }
}
