//! `docs/CASES.md` and the tests stay in step: each case has the test that its row names, and each numbered test has a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where numbered tests are.
const FOLDERS: [&str; 16] = [
    "core",
    "driver",
    "oncewire",
    "transport-unix",
    "transport-tcp",
    "transport-pipe",
    "transport-tls",
    "ledger-redb",
    "ledger-postgres",
    "registry-etcd",
    "cli",
    "observe",
    "recorder",
    "sim",
    "fuzz",
    "examples",
];

/// The case that a test's name begins with: `c25_…` is case 25.
fn case_of(test: &str) -> Option<u32> {
    let digits = test.strip_prefix('c')?.split('_').next()?;
    if digits.len() < 2 { None } else { digits.parse().ok() }
}

/// The names of all functions below a folder.
fn collect_functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" {
            collect_functions(&path, names);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let functions = text.split("fn ").skip(1);
            let found = functions
                .filter_map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next());
            names.extend(found.map(str::to_owned));
        }
    }
}

#[test]
fn every_case_has_its_tests_and_every_numbered_test_its_case() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = BTreeSet::new();
    for folder in FOLDERS {
        collect_functions(&root.join(folder), &mut tests);
    }
    tests.retain(|name| case_of(name).is_some());
    let list = fs::read_to_string(root.join("docs/CASES.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in list.lines().filter(|line| line.starts_with("| C")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let number: u32 =
            cells[0][1..].parse().unwrap_or_else(|_| panic!("no case number: {line}"));
        let test = cells.last().unwrap().trim_matches('`').to_owned();
        assert!(rows.insert(number, test).is_none(), "case {number} has two rows");
    }
    assert!(rows.len() >= 77, "only {} cases were found in docs/CASES.md", rows.len());
    for (number, test) in &rows {
        assert_eq!(
            case_of(test),
            Some(*number),
            "C{number:02} names a test of another case: {test}"
        );
        assert!(tests.contains(test), "C{number:02} names a test that does not exist: {test}");
    }
    for test in &tests {
        let number = case_of(test).unwrap();
        assert!(rows.contains_key(&number), "{test} has no row in docs/CASES.md");
    }
}

/// Names in backticks that look like tests, in the table of attacks.
#[test]
fn every_attack_in_security_md_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut functions = BTreeSet::new();
    for folder in FOLDERS {
        collect_functions(&root.join(folder), &mut functions);
    }
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let table = text.split("## ").find(|part| part.starts_with("Attacks, ")).expect("the table");
    let cells = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let names: Vec<&str> = cells
        .flat_map(|line| line.rsplit(" | ").next().unwrap_or("").split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() >= 30, "only {} tests were found in SECURITY.md", names.len());
    for name in names {
        assert!(functions.contains(name), "SECURITY.md names a test that does not exist: {name}");
    }
}
