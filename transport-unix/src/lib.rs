//! Oncewire over unix.
