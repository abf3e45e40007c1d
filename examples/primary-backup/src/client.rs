//! A client finds the primary, and keeps the view: it asks the view service when it has lost its connection, and not before.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use oncewire::{BoxFuture, BoxStream, Client, ClientOptions, Connect, Runtime};
use viewservice::{View, ViewsClient};

use crate::KvClient;

/// Dials the server of this name.
pub type Dial = Box<dyn Fn(&str) -> Box<dyn Connect> + Send + Sync>;

/// Dials the primary. That is all that a client must know of the replication: its session, whose records the backup has, is resumed
/// wherever the primary is.
pub struct ViewConnector {
    views: ViewsClient,
    dial: Dial,
    /// Which view's primary was reached last.
    known: Mutex<Option<View>>,
}

impl std::fmt::Debug for ViewConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewConnector").finish_non_exhaustive()
    }
}

impl ViewConnector {
    /// Asks this view service, and dials so.
    pub fn new(views: ViewsClient, dial: Dial) -> ViewConnector {
        ViewConnector { views, dial, known: Mutex::new(None) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<View>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self, view: View) -> io::Result<BoxStream> {
        let none = || io::Error::new(io::ErrorKind::NotConnected, format!("{view} has no primary"));
        let primary = view.primary.as_ref().ok_or_else(none)?;
        let stream = (self.dial)(&primary.name).connect().await?;
        *self.known() = Some(view);
        Ok(stream)
    }
}

impl Connect for ViewConnector {
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let known = self.known().take();
            if let Some(view) = known
                && let Ok(stream) = self.dial(view).await
            {
                return Ok(stream);
            }
            let view = self.views.get().await.ok().map_err(io::Error::other)?;
            self.dial(view).await
        })
    }

    fn address(&self) -> String {
        match &*self.known() {
            Some(view) => format!("the primary of {view}"),
            None => "the primary".to_owned(),
        }
    }

    /// Another server may be primary soon.
    fn is_permanent(&self, _: &io::Error) -> bool {
        false
    }
}

/// A client of the service, wherever it is.
pub fn kv_client(
    views: Box<dyn Connect>,
    dial: Dial,
    options: ClientOptions,
    runtime: Arc<dyn Runtime>,
) -> KvClient {
    let of_views = options.clone().with_timeout(options.connect_timeout);
    let views = ViewsClient(Client::with_runtime(views, of_views, runtime.clone()));
    KvClient(Client::with_runtime(ViewConnector::new(views, dial), options, runtime))
}
