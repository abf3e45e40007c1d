//! A service without its name, and one that is no trait. What uses them is not in error.

use oncewire::{Client, Context};

#[oncewire::service("bad")]
pub trait Bad {
    async fn one(&self, context: Context, x: u32) -> u32;
    #[rpc(transactonal)]
    fn two(&self, tx: &mut u8, context: &Context) -> Result<u32, oncewire::ledger::Rollback>;
}

struct Mine;

impl Bad for Mine {
    async fn one(&self, _: Context, x: u32) -> u32 {
        x
    }
    fn two(&self, _: &mut u8, _: &Context) -> Result<u32, oncewire::ledger::Rollback> {
        Ok(2)
    }
}

#[oncewire::service(name = "mine")]
impl Mine {
    #[rpc(idempotent)]
    fn three(&self) -> u32 {
        3
    }
}

async fn calls(client: Client) -> u32 {
    let bad = BadClient(client);
    let _ = (bad.one(1).await, bad.two().await);
    Mine.three()
}

fn main() {
    let _ = BadServer(Mine);
}
