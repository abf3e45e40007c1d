//! Prints lines, on another thread or, with an argument, on the main one: what the tests of this package read.

fn main() {
    /// Says on stderr that it was dropped.
    struct Guard;

    impl Drop for Guard {
        fn drop(&mut self) {
            output::note!("dropped");
            output::show!("not seen");
        }
    }

    let lines = || (0..100_000).for_each(|at| output::show!("line {at}"));
    let _guard = Guard;
    if std::env::args().len() > 1 {
        lines();
    } else if std::thread::spawn(lines).join().is_err() {
        output::note!("the thread has panicked");
    }
    output::note!("ended");
}
