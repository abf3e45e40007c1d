//! Every committed corpus file, through its target.
#![allow(missing_docs)]

use std::path::Path;

use oncewire_fuzz::targets::{ALL, seeds};

#[test]
fn every_file_of_every_corpus_keeps_the_promises() {
    for (name, target) in ALL {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files = std::fs::read_dir(&directory).expect("each target has a corpus");
        let mut count = 0;
        for file in files {
            let path = file.expect("readable").path();
            let input = std::fs::read(&path).expect("readable");
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "{} fails", path.display());
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
}

#[test]
fn every_target_has_a_shim_and_seeds() {
    let shims = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut found = std::fs::read_dir(shims)
        .expect("shims")
        .map(|file| file.expect("readable").path().file_stem().expect("named").to_owned())
        .collect::<Vec<_>>();
    found.sort();
    let names = ALL.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect::<Vec<_>>();
    assert_eq!(found, names);
    for (name, target) in ALL {
        assert!(!seeds(name).is_empty());
        seeds(name).iter().for_each(|seed| target(seed));
    }
}

/// What a small input may not do is take long: it would be found as a timeout after days.
#[test]
fn random_inputs_keep_the_promises() {
    let mut rng = oncewire_fuzz::rng::Rng::new(1);
    for round in 0..300 {
        for (name, target) in ALL {
            let mut input = seeds(name)[round % seeds(name).len()].clone();
            for _ in 0..rng.below(40) {
                input.push(rng.next_u64() as u8 >> rng.below(6));
            }
            target(&input);
        }
    }
}
