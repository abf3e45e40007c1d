//! Oncewire over pipe.
