//! The lab's tests of the view service, in virtual time: the real service, simulated clocks and connections.
//!
//! `cargo test -p viewservice --test labs -- --ignored fifty_times` runs each with fifty seeds.
#![allow(missing_docs)]

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use oncewire::ClientOptions;
use oncewire_sim::{Faults, ServerHandle, Sim};
use viewservice::{DEAD_PINGS, Member, View, ViewService, ViewsClient, ViewsServer};

const INTERVAL: Duration = Duration::from_millis(20);

/// A server, as far as the view service knows it.
struct Pinger {
    sim: Sim,
    views: ViewsClient,
    member: Member,
}

impl Pinger {
    fn new(sim: &Sim, service: &ServerHandle, name: &str, start: u64) -> Pinger {
        let client = sim.client_with(&format!("{name}-{start}"), service, ClientOptions::default());
        let member = Member { name: name.to_owned(), start };
        Pinger { sim: sim.clone(), views: ViewsClient(client), member }
    }

    async fn ping(&self, knows: u64) -> View {
        self.views.ping(self.member.clone(), knows).await.ok().expect("the service is there")
    }

    async fn get(&self) -> View {
        self.views.get().await.ok().expect("the service is there")
    }

    fn is(&self, member: &Option<Member>) -> bool {
        member.as_ref() == Some(&self.member)
    }
}

/// Pings in each interval, as often as a server may be silent before it is dead and twice that, until the view is as wanted.
async fn until(pingers: &[(&Pinger, u64)], wanted: impl Fn(&View) -> bool) -> View {
    let sim = &pingers[0].0.sim;
    let mut view = View::default();
    for _ in 0..2 * DEAD_PINGS {
        for (pinger, knows) in pingers {
            view = pinger.ping(*knows).await;
        }
        if wanted(&view) {
            return view;
        }
        sim.sleep(INTERVAL).await;
    }
    panic!("{view} is not as it should be");
}

fn service(sim: &Sim) -> ServerHandle {
    sim.server("views", |host| {
        let service = ViewService::new(INTERVAL, host.runtime());
        Ok(host.builder("views").service(ViewsServer(service)).build()?)
    })
}

/// Three servers. One is primary of the view that is returned and has acknowledged it; two is its backup.
async fn with_backup(sim: &Sim) -> ([Pinger; 3], View, ServerHandle) {
    let service = service(sim);
    let of = |name, start| Pinger::new(sim, &service, name, start);
    let [one, two, three] = [of("one", 1), of("two", 2), of("three", 3)];
    let first = until(&[(&one, 0)], |view| one.is(&view.primary)).await;
    let view = until(&[(&one, first.number), (&two, 0)], |view| two.is(&view.backup)).await;
    one.ping(view.number).await;
    ([one, two, three], view, service)
}

/// The tests themselves.
mod lab {
    use super::*;

    pub(super) async fn first_primary(sim: Sim) {
        let service = service(&sim);
        let one = Pinger::new(&sim, &service, "one", 1);
        assert_eq!(one.get().await, View::default(), "there was a primary too soon");
        let view = until(&[(&one, 0)], |view| one.is(&view.primary)).await;
        assert_eq!((view.number, view.backup), (1, None));
    }

    pub(super) async fn first_backup(sim: Sim) {
        let ([one, two, _], view, _service) = with_backup(&sim).await;
        assert!(one.is(&view.primary) && two.is(&view.backup) && view.number == 2, "{view}");
    }

    pub(super) async fn backup_takes_over(sim: Sim) {
        let ([_, two, _], view, _service) = with_backup(&sim).await;
        let next = until(&[(&two, view.number)], |view| two.is(&view.primary)).await;
        assert_eq!((next.number, next.backup), (view.number + 1, None));
    }

    pub(super) async fn restarted_server_becomes_backup(sim: Sim) {
        let ([_, two, _], view, service) = with_backup(&sim).await;
        let view = until(&[(&two, view.number)], |view| two.is(&view.primary)).await;
        let one = Pinger::new(&sim, &service, "one", 11);
        let next = until(&[(&two, view.number), (&one, 0)], |view| one.is(&view.backup)).await;
        assert!(two.is(&next.primary), "{next}");
    }

    pub(super) async fn idle_third_server_becomes_backup(sim: Sim) {
        let ([_, two, three], view, _service) = with_backup(&sim).await;
        let pingers = [(&two, view.number), (&three, 0)];
        let next = until(&pingers, |view| two.is(&view.primary)).await;
        assert!(three.is(&next.backup), "{next}");
    }

    pub(super) async fn restarted_primary_treated_as_dead(sim: Sim) {
        let ([_, two, _], view, service) = with_backup(&sim).await;
        let one = Pinger::new(&sim, &service, "one", 11);
        // It was never silent for long.
        let next = one.ping(0).await;
        two.ping(view.number).await;
        assert!(two.is(&next.primary) && one.is(&next.backup), "{next}");
    }

    /// The same for a backup, whose memory is as empty: it must not be promoted without the state.
    pub(super) async fn restarted_backup_treated_as_dead(sim: Sim) {
        let ([one, two, _], view, service) = with_backup(&sim).await;
        let again = Pinger::new(&sim, &service, "two", 22);
        let next = again.ping(view.number).await;
        assert!(
            one.is(&next.primary) && !two.is(&next.backup) && next.number > view.number,
            "{next}"
        );
        // Not acknowledged, so that it never becomes primary.
        for _ in 0..2 * DEAD_PINGS {
            assert!(one.is(&again.ping(next.number).await.primary));
            sim.sleep(INTERVAL).await;
        }
    }

    pub(super) async fn viewserver_waits_for_primarys_acknowledgement(sim: Sim) {
        let ([one, two, three], view, _service) = with_backup(&sim).await;
        // Two is primary, and does not know it: it still acknowledges the view before.
        let pingers = [(&two, view.number), (&three, 0)];
        let next = until(&pingers, |view| two.is(&view.primary)).await;
        for _ in 0..2 * DEAD_PINGS {
            one.ping(0).await;
            assert_eq!(three.ping(next.number).await, next, "the view has changed");
            sim.sleep(INTERVAL).await;
        }
    }

    pub(super) async fn uninitialized_server_cant_become_primary(sim: Sim) {
        let ([one, two, three], view, _service) = with_backup(&sim).await;
        for _ in 0..2 * DEAD_PINGS {
            one.ping(view.number).await;
            two.ping(view.number).await;
            three.ping(0).await;
            sim.sleep(INTERVAL).await;
        }
        // Both that have the state die.
        for _ in 0..2 * DEAD_PINGS {
            let view = three.ping(0).await;
            assert!(!three.is(&view.primary), "an uninitialized server was promoted");
            sim.sleep(INTERVAL).await;
        }
    }
}

fn run<F, Fut>(seeds: Range<u64>, test: F)
where
    F: Fn(Sim) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    oncewire_sim::run(seeds, move |sim| {
        sim.set_faults(Faults::NONE);
        test(sim)
    });
}

macro_rules! labs {
    ($($name:ident: $test:path,)+) => {
        $(#[test]
        fn $name() {
            run(0..3, $test);
        })+

        #[test]
        #[ignore = "a minute"]
        fn fifty_times() {
            $(run(0..50, $test);)+
        }
    };
}

labs! {
    first_primary: lab::first_primary,
    first_backup: lab::first_backup,
    backup_takes_over: lab::backup_takes_over,
    restarted_server_becomes_backup: lab::restarted_server_becomes_backup,
    idle_third_server_becomes_backup: lab::idle_third_server_becomes_backup,
    restarted_primary_treated_as_dead: lab::restarted_primary_treated_as_dead,
    restarted_backup_treated_as_dead: lab::restarted_backup_treated_as_dead,
    viewserver_waits_for_primarys_acknowledgement: lab::viewserver_waits_for_primarys_acknowledgement,
    uninitialized_server_cant_become_primary: lab::uninitialized_server_cant_become_primary,
}
