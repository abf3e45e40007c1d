//! Gives cargo-fuzz's inputs to `oncewire_fuzz::targets::recording`; built without cargo-fuzz, the files on its command line.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| oncewire_fuzz::targets::recording(data));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    oncewire_fuzz::targets::replay(oncewire_fuzz::targets::recording)
}
