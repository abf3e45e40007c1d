//! Runs a recording again.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use oncewire_recorder::{Page, Story, Transcript};

use crate::args::ReplayArgs;
use crate::exit::Failure;
use crate::{plain, say};

/// Methods that every server may have.
const BUILT_IN: [&str; 4] =
    ["oncewire/status", "oncewire/health", "oncewire/signatures", "oncewire/compare"];

/// Prints the conversation, and writes the page.
pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let file = File::open(&args.file).map_err(|error| Failure::file(&args.file, error))?;
    let mut names = args.methods.clone();
    names.extend(BUILT_IN.map(str::to_owned));
    let story = Story::read(BufReader::new(file), &names);
    let story = story.map_err(|error| Failure::file(&args.file, error))?;
    let page = args.html.clone().unwrap_or_else(|| {
        let mut name = args.file.clone().into_os_string();
        name.push(".html");
        PathBuf::from(name)
    });
    // Before the text, whose reader may go.
    if !args.no_html {
        std::fs::write(&page, Page(&story).to_string())
            .map_err(|error| Failure::file(&page, error))?;
    }
    let text = Transcript { story: &story, all: args.all }.to_string();
    let lines: Vec<String> = text.lines().map(plain).collect();
    say(&lines.join("\n"))?;
    if !args.no_html {
        say(&format!("the diagram is in {}", page.display()))?;
    }
    Ok(())
}
