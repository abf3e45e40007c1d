//! All errors at once, and no error about what implements the trait or calls the methods that are right.

use oncewire::Context;

#[oncewire::service(name = "bad")]
pub trait Bad {
    #[rpc(idempotant)]
    async fn one(&self, context: Context, x: u32) -> u32;
    #[rpc(idempotent, transactional)]
    fn two(&self, tx: &mut u8, context: &Context, (a, b): (u8, u8)) -> u32;
    async fn three(&self, context: Context, text: &str) -> u32;
    async fn four(&self, context: Context) -> u32;
}

struct Mine;

impl Bad for Mine {
    async fn one(&self, _: Context, x: u32) -> u32 {
        x
    }
    fn two(&self, _: &mut u8, _: &Context, (a, b): (u8, u8)) -> u32 {
        u32::from(a + b)
    }
    async fn three(&self, _: Context, text: &str) -> u32 {
        text.len() as u32
    }
    async fn four(&self, _: Context) -> u32 {
        4
    }
}

async fn calls(client: BadClient) {
    let _ = client.one(1).await;
    let _ = client.four().await;
}

fn main() {}
