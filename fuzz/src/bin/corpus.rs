//! Writes what the corpora began with: `corpus DIRECTORY` makes a directory for each target.

use oncewire_fuzz::targets::{ALL, seeds};

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    for (name, target) in ALL {
        let directory = std::path::Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in seeds(name).iter().enumerate() {
            target(seed);
            std::fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
