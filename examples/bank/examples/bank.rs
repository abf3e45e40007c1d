//! The bank under the name by which one command finds it: `cargo run --release --example bank`.

fn main() -> std::process::ExitCode {
    oncewire_bank::main()
}
