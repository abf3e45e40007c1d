//! A server that has its ledger, and where its clients find it meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncewire::{BoxFuture, Server};

/// A bank whose turn it is.
pub(crate) struct Turn {
    pub(crate) server: Server,
    this: This,
    site: Option<Box<dyn Site>>,
}

/// The server, for its own methods.
pub(crate) type This = Arc<Mutex<Option<Server>>>;

/// The server, as its methods know it: `None` before it is built.
#[cfg(any(feature = "postgres", feature = "etcd"))]
pub(crate) fn server_of(this: &This) -> Option<Server> {
    this.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Where clients look for the server whose turn it is, and what says whose it is.
pub(crate) trait Site: Send + Sync {
    /// Enters a server that listens at `address`.
    ///
    /// # Errors
    /// Clients could not dial this address.
    fn enter(&self, server: &Server, address: &str) -> Result<Box<dyn Entry>, String>;

    /// Waits until the turn is lost, also where nothing is written meanwhile.
    fn lost(&self) -> BoxFuture<'_, ()>;
}

/// A server where clients look for it; dropping it removes it.
pub(crate) trait Entry: Send {
    /// Shuts the server down as its clients like it.
    fn drain(self: Box<Self>, grace: Duration) -> BoxFuture<'static, ()>;
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Its handlers know the server, and the server has its handlers.
        self.this.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Turn {
    /// `this` is what its methods have.
    pub(crate) fn new(server: Server, this: This) -> Turn {
        *this.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.clone());
        Turn { server, this, site: None }
    }

    /// A bank without a ledger, or whose ledger is its own until it ends.
    pub(crate) fn for_good(server: Server) -> Turn {
        Turn::new(server, This::default())
    }

    /// The same, which clients find there.
    #[cfg(feature = "etcd")]
    pub(crate) fn at(mut self, site: impl Site + 'static) -> Turn {
        self.site = Some(Box::new(site));
        self
    }

    /// Enters it where clients look for it, if they do.
    ///
    /// # Errors
    /// Clients could not dial this address.
    pub(crate) fn enter(&self, address: &str) -> Result<Option<Box<dyn Entry>>, String> {
        self.site.as_ref().map(|site| site.enter(&self.server, address)).transpose()
    }

    /// Waits until the turn is lost, if only waiting shows it: other losses end `Server::serve`.
    pub(crate) async fn lost(&self) {
        match &self.site {
            Some(site) => site.lost().await,
            None => std::future::pending().await,
        }
    }
}
