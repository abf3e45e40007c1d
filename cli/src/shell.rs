//! Completions for shells, and the manual, both made of the command line's own description.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Cli, ManArgs};
use crate::exit::{Failure, STATUSES};
use crate::write_out;

/// Prints what makes a shell complete.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oncewire", &mut script);
    write_out(&script)
}

/// Prints a page of the manual, or writes all of them.
pub(crate) fn manual(args: &ManArgs) -> Result<(), Failure> {
    let mut program = Cli::command().disable_help_subcommand(true);
    // Gives subcommands their full names.
    program.build();
    if let Some(dir) = &args.dir {
        return write_all(&program, dir);
    }
    let page = match &args.command {
        None => &program,
        Some(name) => program.find_subcommand(name).ok_or_else(|| {
            let names: Vec<_> =
                program.get_subcommands().map(|command| command.get_name()).collect();
            Failure::Usage(format!("there is no command {name}; there is {}", names.join(", ")))
        })?,
    };
    write_out(&render(page)?)
}

fn render(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    // What --help says of exit statuses at its end has a section of its own here.
    let man = clap_mangen::Man::new(command.clone().after_long_help(None));
    man.render(&mut page).map_err(Failure::Unwritable)?;
    let table = STATUSES.split_once('\n').map_or(STATUSES, |(_, table)| table);
    page.extend_from_slice(format!(".SH \"EXIT STATUS\"\n.nf\n{table}\n.fi\n").as_bytes());
    Ok(page)
}

fn write_all(program: &clap::Command, dir: &Path) -> Result<(), Failure> {
    for command in std::iter::once(program).chain(program.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, render(command)?).map_err(|error| Failure::file(&path, error))?;
    }
    Ok(())
}
