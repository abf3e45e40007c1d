//! How a server proves who it is, and which clients it accepts.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets};

use crate::reload::Reloadable;

/// How a server proves who it is, and which clients it accepts. Clones are the same: what one of them reloads, all use.
///
/// ```no_run
/// use oncewire_tls::ServerTls;
///
/// let tls = ServerTls::builder("server.pem", "server.key")
///     .client_authorities_file("authority.pem")
///     .admit(|peer| peer.name().starts_with("spiffe://example.org/"))
///     .build()?;
/// // Later, when the files have changed: connections from now on use what is in them.
/// tls.reload()?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<Reloadable<ServerConfig>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Makes no tickets, and takes none.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// What a connection must not have, whatever the configuration says: data before the handshake is complete can be
/// replayed, and a resumed session is accepted on a certificate that is not checked again.
fn safe(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(NoTickets);
    Arc::new(config)
}

impl From<Arc<ServerConfig>> for ServerTls {
    /// A configuration of the program's own. Early data and resumption are turned off in it.
    fn from(config: Arc<ServerConfig>) -> ServerTls {
        ServerTls { config: Arc::new(Reloadable::fixed(safe(&config))) }
    }
}

impl ServerTls {
    /// Connections from now on use what is in the files now. If that cannot be used, those before stay in use.
    ///
    /// Existing connections stay open, also those of clients that would no longer be accepted. Does nothing for a
    /// configuration of the program's own: see [`replace`](ServerTls::replace).
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn reload(&self) -> io::Result<()> {
        self.config.reload()
    }

    /// Connections from now on use this configuration, without its early data and resumption.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.config.replace(safe(&config));
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.config.current()
    }
}

/// What is made of files needs a provider of cryptography of ours; a configuration of the program's own brings one.
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub(crate) mod files {
    use std::path::PathBuf;

    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::provider::{self, ALPN, provider};
    use crate::verifier::{Admit, NamedClients, PeerCertificate};

    /// Describes a [`ServerTls`] that is made of files.
    pub struct ServerTlsBuilder {
        certificate: PathBuf,
        key: PathBuf,
        clients: Vec<PathBuf>,
        admit: Option<Admit>,
        admits_twice: bool,
    }

    impl fmt::Debug for ServerTlsBuilder {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ServerTlsBuilder")
                .field("certificate", &self.certificate)
                .field("clients", &self.clients)
                .finish_non_exhaustive()
        }
    }

    impl ServerTls {
        /// Shows clients this certificate: a PEM file with it and those between it and its authority, in this order, and
        /// one with its private key. Unless the builder says more, clients need no certificate.
        pub fn builder(
            certificate: impl Into<PathBuf>,
            key: impl Into<PathBuf>,
        ) -> ServerTlsBuilder {
            ServerTlsBuilder {
                certificate: certificate.into(),
                key: key.into(),
                clients: Vec::new(),
                admit: None,
                admits_twice: false,
            }
        }
    }

    impl ServerTlsBuilder {
        /// Accepts only clients that have a certificate of an authority in this PEM file. Its
        /// [name](crate::certificate_name) is then who is calling. Can be said several times.
        pub fn client_authorities_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.clients.push(path.into());
            self
        }

        /// Of the clients with such a certificate, accepts only those for which this returns true; one for which it panics is
        /// not accepted. The others learn that their access is denied. It is called in the handshake, and must not block.
        pub fn admit(
            mut self,
            admit: impl Fn(&PeerCertificate<'_>) -> bool + Send + Sync + 'static,
        ) -> Self {
            self.admits_twice |= self.admit.is_some();
            self.admit = Some(Arc::new(admit));
            self
        }

        /// Reads the files.
        ///
        /// # Errors
        /// [`InvalidInput`](io::ErrorKind::InvalidInput): what is wrong with which file, or that [`admit`](Self::admit) was
        /// said twice, or without an authority for clients.
        pub fn build(self) -> io::Result<ServerTls> {
            if self.admits_twice {
                let message = "`admit` was said twice, and only one of the two can hold";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            if self.admit.is_some() && self.clients.is_empty() {
                let message = "without an authority for clients there are no names to admit";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            let config = Reloadable::from_files(Box::new(move || self.config()))?;
            Ok(ServerTls { config: Arc::new(config) })
        }

        fn config(&self) -> io::Result<Arc<ServerConfig>> {
            let invalid = |e: rustls::Error| io::Error::new(io::ErrorKind::InvalidInput, e);
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(invalid)?;
            let builder = if self.clients.is_empty() {
                builder.with_no_client_auth()
            } else {
                builder.with_client_cert_verifier(Arc::new(self.verifier()?))
            };
            let chain = provider::certificates(&self.certificate)?;
            let key = provider::private_key(&self.key)?;
            let unusable = |error| provider::bad_identity(&self.certificate, &self.key, &error);
            let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            Ok(safe(&config))
        }

        fn verifier(&self) -> io::Result<NamedClients> {
            let mut roots = RootCertStore::empty();
            for path in &self.clients {
                provider::add_authorities(&mut roots, path)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Ok(NamedClients::new(verifier, self.admit.clone()))
        }
    }
}
