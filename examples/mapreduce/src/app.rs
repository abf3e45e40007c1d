//! What is computed: a map and a reduce function each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum App {
    /// How often each word is there.
    WordCount,
    /// In which files each word is.
    Index,
}

/// Values of each key.
pub(crate) type Groups = BTreeMap<String, Vec<String>>;

impl App {
    /// The words of a text, with a value for each, and how many there were.
    pub(crate) fn map(self, file: &str, text: &str) -> (BTreeMap<String, String>, u64) {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(word).or_default() += 1;
        }
        let words = counts.values().sum();
        let value = |count: u64| match self {
            App::WordCount => count.to_string(),
            App::Index => file.to_owned(),
        };
        let pairs = counts.into_iter().map(|(word, count)| (word.to_owned(), value(count)));
        (pairs.collect(), words)
    }

    /// One value of all values of a key; an error if one of them is none.
    pub(crate) fn reduce(self, mut values: Vec<String>) -> Result<String, String> {
        match self {
            App::WordCount => {
                let sum: Result<u64, _> = values.iter().map(|value| value.parse::<u64>()).sum();
                sum.map(|sum| sum.to_string()).map_err(|_| "a count is no number".to_owned())
            }
            App::Index => {
                values.sort();
                values.dedup();
                Ok(values.join("\t"))
            }
        }
    }
}

/// The result as one process computes it that reads one file after another, and how many words it read.
///
/// # Errors
/// Which file could not be read, and why.
pub fn sequential(app: App, input: &[String]) -> Result<(String, u64), String> {
    let (mut groups, mut total) = (Groups::new(), 0);
    for name in input {
        let file = files::whole_path(name)?;
        let bytes = std::fs::read(&file).map_err(|error| format!("{name}: {error}"))?;
        let (pairs, words) = app.map(&file, &String::from_utf8_lossy(&bytes));
        pairs.into_iter().for_each(|(key, value)| groups.entry(key).or_default().push(value));
        total += words;
    }
    let line = |(key, values)| Ok(format!("{key}\t{}\n", app.reduce(values)?));
    Ok((groups.into_iter().map(line).collect::<Result<_, String>>()?, total))
}
