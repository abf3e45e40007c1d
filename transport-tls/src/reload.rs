//! A configuration that can be replaced while it is in use.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes a configuration again, from the files that it was made of.
type Make<T> = Box<dyn Fn() -> io::Result<Arc<T>> + Send + Sync>;

pub(crate) struct Reloadable<T> {
    current: Mutex<Arc<T>>,
    /// `None` if the program made the configuration itself.
    make: Option<Make<T>>,
}

impl<T> Reloadable<T> {
    pub(crate) fn fixed(config: Arc<T>) -> Reloadable<T> {
        Reloadable { current: Mutex::new(config), make: None }
    }

    #[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
    pub(crate) fn from_files(make: Make<T>) -> io::Result<Reloadable<T>> {
        Ok(Reloadable { current: Mutex::new(make()?), make: Some(make) })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<T>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Arc<T> {
        self.lock().clone()
    }

    pub(crate) fn replace(&self, config: Arc<T>) {
        *self.lock() = config;
    }

    /// Reads the files again. What was in use stays in use if they cannot be.
    pub(crate) fn reload(&self) -> io::Result<()> {
        if let Some(make) = &self.make {
            let config = make()?;
            self.replace(config);
        }
        Ok(())
    }
}
