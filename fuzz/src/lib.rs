//! Attacks on Oncewire.
