//! How a client checks servers, and proves who it is.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;

use crate::reload::Reloadable;

/// How a client checks servers, and proves who it is. Clones are the same: what one of them reloads, all use.
///
/// ```no_run
/// use oncewire_tls::ClientTls;
///
/// let tls = ClientTls::builder()
///     .authorities_file("authority.pem")
///     .identity_files("client.pem", "client.key")
///     .build()?;
/// // Later, when the files have changed: connections from now on use what is in them.
/// tls.reload()?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<Reloadable<Current>>,
}

/// What connections use now.
pub(crate) struct Current {
    pub(crate) config: Arc<ClientConfig>,
    /// What judges servers, where the configuration is not the program's own.
    pub(crate) verifier: Option<Arc<dyn ServerCertVerifier>>,
}

impl Current {
    /// Of the program's own configuration.
    fn own(config: &ClientConfig) -> Current {
        Current { config: safe(config), verifier: None }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// What a connection must not have, whatever the configuration says: data before the handshake is complete can be
/// replayed, and a resumed session skips the certificates.
fn safe(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

impl From<Arc<ClientConfig>> for ClientTls {
    /// A configuration of the program's own. Early data and resumption are turned off in it.
    fn from(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls { config: Arc::new(Reloadable::fixed(Arc::new(Current::own(&config)))) }
    }
}

impl ClientTls {
    /// Connections from now on use what is in the files now. If that cannot be used, those before stay in use.
    ///
    /// Does nothing for a configuration of the program's own: see [`replace`](ClientTls::replace).
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn reload(&self) -> io::Result<()> {
        self.config.reload()
    }

    /// Connections from now on use this configuration, without its early data and resumption.
    pub fn replace(&self, config: Arc<ClientConfig>) {
        self.config.replace(Arc::new(Current::own(&config)));
    }

    /// What connections from now on are made with: for a client of another protocol that checks servers in the same way.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current().config.clone()
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.config.current()
    }
}

/// What is made of files needs a provider of cryptography of ours; a configuration of the program's own brings one.
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
pub(crate) mod files {
    use std::path::PathBuf;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;

    use super::*;
    use crate::provider::{self, ALPN, provider};

    /// Describes a [`ClientTls`] that is made of files.
    #[derive(Clone, Debug, Default)]
    pub struct ClientTlsBuilder {
        authorities: Vec<PathBuf>,
        #[cfg(feature = "system-roots")]
        system: bool,
        identity: Option<(PathBuf, PathBuf)>,
        without_alpn: bool,
    }

    impl ClientTls {
        /// Trusts no server, until the builder says whose certificates are trusted.
        pub fn builder() -> ClientTlsBuilder {
            ClientTlsBuilder::default()
        }
    }

    impl ClientTlsBuilder {
        /// Trusts servers whose certificates are signed by an authority in this PEM file. Can be said several times.
        pub fn authorities_file(mut self, path: impl Into<PathBuf>) -> Self {
            self.authorities.push(path.into());
            self
        }

        /// Trusts servers whose certificates are signed by an authority that the operating system trusts.
        #[cfg(feature = "system-roots")]
        pub fn system_authorities(mut self) -> Self {
            self.system = true;
            self
        }

        /// Shows servers that ask for it this certificate: a PEM file with it and those between it and its authority, in
        /// this order, and one with its private key.
        pub fn identity_files(
            mut self,
            certificate: impl Into<PathBuf>,
            key: impl Into<PathBuf>,
        ) -> Self {
            self.identity = Some((certificate.into(), key.into()));
            self
        }

        /// Names no protocol in the handshake: for servers that speak another one than Oncewire's, and refuse what they do not
        /// know, such as etcd.
        pub fn without_alpn(mut self) -> Self {
            self.without_alpn = true;
            self
        }

        /// Reads the files.
        ///
        /// # Errors
        /// [`InvalidInput`](io::ErrorKind::InvalidInput): what is wrong with which file, or that no authority is trusted.
        pub fn build(self) -> io::Result<ClientTls> {
            let config = Reloadable::from_files(Box::new(move || self.config()))?;
            Ok(ClientTls { config: Arc::new(config) })
        }

        fn config(&self) -> io::Result<Arc<Current>> {
            let invalid = |e: rustls::Error| io::Error::new(io::ErrorKind::InvalidInput, e);
            let roots = Arc::new(self.roots()?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(invalid)?
                .with_webpki_verifier(verifier.clone());
            let mut config = match &self.identity {
                None => builder.with_no_client_auth(),
                Some((certificate, key_file)) => {
                    let chain = provider::certificates(certificate)?;
                    let key = provider::private_key(key_file)?;
                    let unusable = |error| provider::bad_identity(certificate, key_file, &error);
                    builder.with_client_auth_cert(chain, key).map_err(unusable)?
                }
            };
            if !self.without_alpn {
                config.alpn_protocols = vec![ALPN.to_vec()];
            }
            Ok(Arc::new(Current { config: safe(&config), verifier: Some(verifier) }))
        }

        fn roots(&self) -> io::Result<RootCertStore> {
            let mut roots = RootCertStore::empty();
            for path in &self.authorities {
                provider::add_authorities(&mut roots, path)?;
            }
            #[cfg(feature = "system-roots")]
            if self.system {
                let system = rustls_native_certs::load_native_certs();
                let (added, _unreadable) = roots.add_parsable_certificates(system.certs);
                if let (0, Some(error)) = (added, system.errors.first()) {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()));
                }
            }
            if roots.is_empty() {
                let message = "no authority is trusted, so no server would be: name some by `authorities_file` or \
                               `system_authorities`";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Ok(roots)
        }
    }
}
