//! The first test of `README.md`, as it stands there.
#![allow(missing_docs)]

use oncewire::Context;

#[oncewire::service(name = "mail")]
trait Mail {
    async fn send(&self, context: Context, letter: u64);
}

/// Gives a letter to whatever really sends it.
struct Sender(Box<dyn Fn(u64) + Send + Sync>);

impl Mail for Sender {
    async fn send(&self, _: Context, letter: u64) {
        (self.0)(letter);
    }
}

#[test]
fn a_letter_is_sent_once() {
    oncewire_sim::run(0..50, |sim| async move {
        let mail = sim.server("mail", |host| {
            let sim = host.sim();
            let sender = Sender(Box::new(move |letter| sim.effect(letter)));
            Ok(host.builder("mail").service(MailServer(sender)).build()?)
        });
        let client = MailClient(sim.client("writer", &mail));
        for letter in 0..10 {
            let _ = sim.record(letter, client.send(letter)).await;
        }
    });
}

#[test]
fn c330_the_first_test_of_the_readme_runs_as_it_stands_there() {
    let (readme, here) = (include_str!("../README.md"), include_str!("first.rs"));
    let part = |from: &str, until: &str| {
        let from = here.find(from).unwrap();
        &here[from..from + here[from..].find(until).unwrap() + until.len()]
    };
    let service = part("use oncewire::Context;", "\n}\n\n#[test]");
    let test = part("#[test]\nfn a_letter_is_sent_once", "\n}\n");
    assert!(readme.contains(service.trim_end_matches("\n\n#[test]")), "the service");
    assert!(readme.contains(test) && test.lines().count() <= 15, "the test");
}
