//! The bank: `cargo run --release -p oncewire-bank`.

fn main() -> std::process::ExitCode {
    oncewire_bank::main()
}
