//! The command line that all simulators share: which worlds are run, how much is printed, and which bug is planted.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::driver_world::executor::lock;
use crate::driver_world::{Failure, Report};
use crate::filmed::{SharedFilm, film, write};

/// Lines of a failure's trace that are printed if `--trace` does not ask for all.
const LINES_MAX: usize = 120;

/// Which worlds are run, and how much of them is printed.
#[derive(Debug, clap::Args)]
pub struct Worlds {
    /// Runs the worlds of these seeds; TO is not among them.
    #[arg(long, value_name = "FROM..TO", default_value = "0..1000", value_parser = range)]
    seeds: Range<u64>,
    /// Runs the world of one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Prints everything that happens.
    #[arg(long)]
    pub trace: bool,
    /// Writes a recording of one world, for `oncewire replay`.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub record: Option<PathBuf>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let ends =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.ok_or_else(|| "write two numbers, FROM..TO".to_owned())
}

/// A parser for `--mutant` that knows the bugs which `is_caught` names.
pub fn mutants<M>(is_caught: impl Fn(M) -> bool) -> impl TypedValueParser<Value = M>
where
    M: ValueEnum + Send + Sync + 'static,
{
    let caught = M::value_variants().iter().filter(|mutant| is_caught((*mutant).clone()));
    let names: Vec<_> = caught.filter_map(ValueEnum::to_possible_value).collect();
    PossibleValuesParser::new(names).try_map(|name| M::from_str(&name, false))
}

/// What `--mutant` calls a planted bug.
pub fn name<M: ValueEnum>(mutant: &M) -> String {
    let value = mutant.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The argument that plants `mutant` again, with the space before it.
pub fn planted<M: ValueEnum>(mutant: Option<&M>) -> String {
    mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", name(mutant)))
}

impl Worlds {
    /// The seeds that are run.
    pub fn seeds(&self) -> Range<u64> {
        self.seed.map_or(self.seeds.clone(), |seed| seed..seed + 1)
    }

    /// The arguments that run one seed again and print all of it.
    pub fn again<M: ValueEnum>(seed: u64, mutant: Option<&M>) -> String {
        format!("--seed {seed} --trace{}", planted(mutant))
    }

    /// The line that says how a failure is drawn.
    pub fn picture(program: &str, again: &str) -> String {
        format!(
            "to see a diagram of it: {program} {again} --record FILE, then oncewire replay FILE"
        )
    }

    /// Runs all worlds with `world`, which takes a seed, the lines of trace to keep, the planted bug, and a recording to be
    /// made. Prints the sum, or the first failure and the command of the binary `program` that repeats it. `methods` are those
    /// of its services.
    pub fn run<M: ValueEnum + Copy>(
        &self,
        program: &str,
        methods: &[&str],
        mutant: Option<M>,
        world: impl Fn(u64, usize, Option<M>, Option<&SharedFilm>) -> Result<Report, Failure>,
    ) -> ExitCode {
        #[expect(
            clippy::disallowed_methods,
            reason = "measures the run; nothing in it reads a clock"
        )]
        let start = std::time::Instant::now();
        let lines_max = if self.trace { usize::MAX } else { 0 };
        let (mut worlds, mut sum) = (0_u64, Report::default());
        for seed in self.seeds() {
            let again = format!("--seed {seed}{}", planted(mutant.as_ref()));
            let film = self.record.as_ref().map(|_| Arc::new(Mutex::new(film(seed, methods))));
            let ended = world(seed, lines_max, mutant, film.as_ref());
            if let (Some(to), Some(film)) = (&self.record, &film)
                && let Err(error) = write(&lock(film), format!("{program} {again}"), false, to)
            {
                output::note!("{}: {error}", to.display());
                return ExitCode::from(2);
            }
            match ended {
                Ok(report) => sum.add(&report),
                Err(failure) => {
                    // Once more for its trace, unless that was kept: it is the same run.
                    let traced = match self.trace {
                        true => Err(failure),
                        false => world(seed, LINES_MAX, mutant, None),
                    };
                    match traced {
                        Err(failure) => output::show!("{failure}"),
                        Ok(_) => {
                            output::show!(
                                "seed {seed} failed, and not again: it is not deterministic"
                            )
                        }
                    }
                    output::show!(
                        "to see all of it: {program} {}",
                        Worlds::again(seed, mutant.as_ref())
                    );
                    output::show!("{}", Worlds::picture(program, &again));
                    return ExitCode::FAILURE;
                }
            }
            worlds += 1;
        }
        output::show!("worlds        {worlds}");
        output::print(format_args!("{}", sum.lines(start.elapsed().as_secs_f64())));
        ExitCode::SUCCESS
    }
}
