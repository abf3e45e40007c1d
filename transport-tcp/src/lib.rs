//! Oncewire over tcp.
