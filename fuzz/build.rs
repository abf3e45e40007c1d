//! Tells the compiler that cargo-fuzz sets `--cfg fuzzing`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
}
