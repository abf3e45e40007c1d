//! A handler that cannot go from thread to thread.

use oncewire::Context;
use std::rc::Rc;

#[oncewire::service(name = "bad")]
pub trait Bad {
    async fn one(&self, context: Context) -> u32;
}

struct Mine;

impl Bad for Mine {
    async fn one(&self, _: Context) -> u32 {
        let one = Rc::new(1);
        std::future::ready(()).await;
        *one
    }
}

fn main() {
    let _ = BadServer(Mine);
}
