//! The first argument is no context.

#[oncewire::service(name = "bad")]
pub trait Bad {
    async fn get(&self, key: u64) -> u32;
}

fn main() {}
