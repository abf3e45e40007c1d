//! What plugins write to their stderr.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::roles::{COMPLAIN, ECHO};
use crate::{collect, plugin, until};

crate::tests! {
    a_plugin_that_fills_its_stderr_serves_on_though_no_line_is_taken,
    lines_carry_the_name_of_their_plugin,
}

fn a_plugin_that_fills_its_stderr_serves_on_though_no_line_is_taken() {
    const LINES: u32 = 50_000;
    smol::block_on(async {
        let (gate, passes) = channel::<()>();
        let passes = Mutex::new(passes);
        let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let counts = seen.clone();
        let plugin = plugin("serve")
            .on_stderr(move |line| {
                let _ = passes.lock().unwrap().recv();
                counts[0].fetch_add(1, Ordering::Relaxed);
                counts[1].fetch_add(line.lines_lost, Ordering::Relaxed);
            })
            .start();
        // Five million bytes, and the reply comes.
        plugin.client().call(&COMPLAIN, &LINES).await.ok().unwrap();
        assert_eq!(seen[0].load(Ordering::Relaxed), 0);
        drop(gate);
        let total = || seen.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        until(|| {
            // What is lost is known with the next line that is not.
            plugin.client().call(&COMPLAIN, &1).block().ok().unwrap();
            total() >= u64::from(LINES)
        })
        .await;
        assert!(seen[1].load(Ordering::Relaxed) > 0);
        assert_eq!(plugin.client().call(&ECHO, &vec![1]).await.ok().unwrap(), [1]);
        assert_eq!(plugin.status().starts, 1);
    });
}

fn lines_carry_the_name_of_their_plugin() {
    smol::block_on(async {
        let (builder, lines) = collect(plugin("serve"));
        let plugin = builder.start();
        plugin.client().call(&COMPLAIN, &2).await.ok().unwrap();
        until(|| lines.lock().unwrap().len() == 2).await;
        let line = lines.lock().unwrap()[0].to_string();
        assert_eq!(line, format!("[serve] {:99}", "complaint"));
    });
}
