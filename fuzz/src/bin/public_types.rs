//! Looks for types and traits of other crates in public signatures, in what rustdoc says of a crate as JSON.
//!
//! `public_types Cargo.lock [NAME]... -- FILE.json...`: each other crate that is found must be at 1.0 or later, or one of the names.
//! `.ci/public` runs it. Exits with 1 and a line for each finding, and with 2 where it cannot read what it is given.
//!
//! Everything that a program can name is looked at: functions, fields, bounds, implementations of traits, aliases, re-exports.
//! Not what other crates implement for all types.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::Value;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(found) if found.is_empty() => ExitCode::SUCCESS,
        Ok(found) => {
            found.iter().for_each(|found| output::note!("{found}"));
            ExitCode::FAILURE
        }
        Err(why) => {
            output::note!("public_types: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<BTreeSet<String>, String> {
    let usage = "usage: public_types Cargo.lock [NAME]... -- FILE.json...";
    let split = args.iter().position(|arg| arg == "--").ok_or(usage)?;
    let (lock, allowed) = args[..split].split_first().ok_or(usage)?;
    let files = &args[split + 1..];
    if files.is_empty() {
        return Err(usage.to_owned());
    }
    let versions = versions(&read(lock)?);
    let is_allowed = |name: &str| {
        allowed.iter().any(|allowed| allowed == name)
            || matches!(name, "std" | "core" | "alloc")
            || versions.get(name).is_some_and(|all| all.iter().all(|version| is_stable(version)))
    };
    let mut found = BTreeSet::new();
    for file in files {
        let json =
            serde_json::from_str(&read(file)?).map_err(|error| format!("{file}: {error}"))?;
        let api = Api::new(&json).ok_or(format!("{file}: not what rustdoc writes"))?;
        let wrong = api.mentions().into_iter().filter(|(name, _, _)| !is_allowed(name));
        found.extend(wrong.map(|(name, path, place)| {
            let version = versions.get(&name).map_or(String::new(), |all| all.join(", "));
            format!("{}: {place}: {path}, of {name} {version}", api.name)
        }));
    }
    Ok(found)
}

fn read(file: &str) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))
}

fn is_stable(version: &str) -> bool {
    version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u64| major > 0)
}

/// The versions of each package from a registry, by the name of its library. Those of the workspace count as stable: they are its own.
fn versions(lock: &str) -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().strip_prefix('='))
                .map(|rest| rest.trim().trim_matches('"'))
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else { continue };
        let version = if field("source").is_some() { version } else { "1.0.0 (here)" };
        versions.entry(name.replace('-', "_")).or_default().push(version.to_owned());
    }
    versions
}

/// What rustdoc says of a crate.
struct Api<'a> {
    name: String,
    index: &'a serde_json::Map<String, Value>,
    paths: &'a serde_json::Map<String, Value>,
    crates: &'a serde_json::Map<String, Value>,
}

impl<'a> Api<'a> {
    fn new(json: &'a Value) -> Option<Api<'a>> {
        let index = json.get("index")?.as_object()?;
        let root = key(json.get("root")?)?;
        let name = index.get(&root)?.get("name")?.as_str()?.to_owned();
        let paths = json.get("paths")?.as_object()?;
        Some(Api { name, index, paths, crates: json.get("external_crates")?.as_object()? })
    }

    /// The other crates that are named: each with the path of what, and where.
    fn mentions(&self) -> BTreeSet<(String, String, String)> {
        let mut found = BTreeSet::new();
        for (id, item) in self.index {
            let inner = &item["inner"];
            let of_others = !inner["impl"]["blanket_impl"].is_null();
            let is_ours = item["crate_id"].as_u64() == Some(0);
            if is_ours && !of_others {
                self.look(inner, &self.place(id, item), &mut found);
            }
        }
        found
    }

    /// Where an item is, for a person.
    fn place(&self, id: &str, item: &Value) -> String {
        let path = self.paths.get(id).and_then(|path| path["path"].as_array());
        let path =
            path.map(|parts| parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("::"));
        let name = || item["name"].as_str().map(str::to_owned);
        let file = item["span"]["filename"].as_str().unwrap_or("?");
        let line = item["span"]["begin"][0].as_u64().unwrap_or(0);
        let name = path.or_else(name).unwrap_or_else(|| "impl".to_owned());
        format!("{file}:{line}: {name}")
    }

    /// Whatever has an `id` and a name, anywhere in a signature, refers to what that is.
    fn look(&self, value: &Value, place: &str, found: &mut BTreeSet<(String, String, String)>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.look(value, place, found)),
            Value::Object(fields) => {
                if let Some((name, path)) = fields.get("id").and_then(|id| self.foreign(id)) {
                    found.insert((name, path, place.to_owned()));
                }
                fields.values().for_each(|value| self.look(value, place, found));
            }
            _ => {}
        }
    }

    /// The crate and the path of something that another crate has.
    fn foreign(&self, id: &Value) -> Option<(String, String)> {
        let path = self.paths.get(&key(id)?)?;
        let of = path.get("crate_id")?.as_u64().filter(|of| *of != 0)?;
        let name = self.crates.get(&of.to_string())?.get("name")?.as_str()?.to_owned();
        let parts = path.get("path")?.as_array()?.iter().filter_map(Value::as_str);
        Some((name, parts.collect::<Vec<_>>().join("::")))
    }
}

/// Ids are numbers, and were texts once.
fn key(id: &Value) -> Option<String> {
    match id {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "[[package]]\nname = \"futures-io\"\nversion = \"0.3.31\"\nsource = \"registry\"\n\n\
                        [[package]]\nname = \"bytes\"\nversion = \"1.2.0\"\nsource = \"registry\"\n\n\
                        [[package]]\nname = \"oncewire-core\"\nversion = \"0.1.0\"\n";

    #[test]
    fn only_what_is_below_one_and_of_others_is_found() {
        let versions = versions(LOCK);
        let is_stable = |name: &str| versions[name].iter().all(|version| is_stable(version));
        assert!(!is_stable("futures_io"));
        assert!(is_stable("bytes") && is_stable("oncewire_core"));
    }

    #[test]
    fn types_are_found_wherever_they_stand_in_a_signature() {
        let json = serde_json::json!({
            "root": 0,
            "index": {
                "0": { "crate_id": 0, "name": "ours", "inner": { "module": {} } },
                "1": { "crate_id": 0, "name": "f", "inner": { "function": { "sig": { "output": {
                    "resolved_path": { "path": "Vec", "id": 5, "args": { "angle_bracketed": { "args": [
                        { "type": { "resolved_path": { "path": "X", "id": 6 } } }
                    ] } } }
                } } } } },
                "2": { "crate_id": 0, "name": null, "inner": { "impl": {
                    "blanket_impl": { "generic": "T" }, "trait": { "path": "Y", "id": 7 }
                } } },
            },
            "paths": {
                "5": { "crate_id": 1, "path": ["alloc", "vec", "Vec"] },
                "6": { "crate_id": 2, "path": ["other", "X"] },
                "7": { "crate_id": 2, "path": ["other", "Y"] },
            },
            "external_crates": { "1": { "name": "alloc" }, "2": { "name": "other" } },
        });
        let found = Api::new(&json).unwrap().mentions();
        let found: Vec<_> = found.iter().map(|(name, path, _)| (&name[..], &path[..])).collect();
        assert_eq!(found, [("alloc", "alloc::vec::Vec"), ("other", "other::X")]);
    }
}
