#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod film;
mod flight;
mod format;
mod hide;
mod page;
mod replay;
mod ring;
mod siphash;
mod tap;
mod text;

pub use error::ReadError;
pub use film::Film;
pub use flight::{FlightRecorder, RecordedAcceptor, RecordedConnector};
pub use format::{
    About, Body, Delivery, EndedBy, MAGIC, PLAIN_BODY_LEN_MAX, RECORD_LEN_MAX, Reader, Record,
    RecordedFrame, Source, What, Writer,
};
pub use hide::Key;
pub use page::Page;
pub use replay::{Decision, FrameKind, FrameStep, Step, StepKind, Story};
pub use tap::Tap;
pub use text::Transcript;
